"""The page of Swift's preferences that asks for the simulated microscope."""

from __future__ import annotations

import gettext

from nion.ui import Declarative, UserInterface

from nionswift_plugin.stem_ae_ui import preference_page

_ = gettext.gettext
u = Declarative.DeclarativeUI()

_KEY = "stem_ae_simulator"


def is_wanted() -> bool:
    """Return whether the simulated microscope is to be there at the next start."""
    return bool(preference_page.stored(_KEY).get("start", False))


def want(start: bool) -> None:
    """Store whether the simulated microscope is to be there at the next start."""
    preference_page.store(_KEY, {"start": start})


def page() -> preference_page.Page:
    """Return the page."""
    return preference_page.Page("stem_ae_simulator", _("Simulated microscope"), _Handler)


class _Handler(Declarative.Handler):
    def __init__(self, ui: UserInterface.UserInterface) -> None:
        super().__init__()
        self.ui_view = u.create_column(
            u.create_check_box(
                text=_("Start with the simulated atomic microscope (at the next start of Swift)"),
                name="start_check_box",
                checked="@binding(start)",
            ),
            u.create_label(text=_("It takes the place of the stock simulator, never of a real instrument.")),
            u.create_stretch(),
            spacing=8,
            margin=12,
        )

    @property
    def start(self) -> bool:
        """Whether it is wanted."""
        return is_wanted()

    @start.setter
    def start(self, value: bool) -> None:
        want(value)
        self.property_changed_event.fire("start")
