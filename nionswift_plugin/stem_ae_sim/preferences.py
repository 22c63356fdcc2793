"""The page of Swift's preferences that asks for the simulated microscope."""

from __future__ import annotations

import asyncio
import collections.abc
import gettext
import typing

from nion.swift.model import ApplicationData
from nion.ui import Declarative, UserInterface

_ = gettext.gettext

_KEY = "stem_ae_simulator"


def is_wanted(data: collections.abc.Mapping[str, typing.Any]) -> bool:
    """Return whether the stored application data ask for the simulated microscope."""
    return bool(data.get(_KEY, {}).get("start", False))


def want(start: bool) -> None:
    """Store whether the simulated microscope is to be there at the next start."""
    data = ApplicationData.get_data()
    data[_KEY] = {"start": start}
    ApplicationData.set_data(data)


class Pane:
    """What Swift shows under Preferences."""

    identifier = "stem_ae_simulator"
    label = _("Simulated microscope")

    def build(
        self,
        ui: UserInterface.UserInterface,
        event_loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: typing.Any,
    ) -> Declarative.DeclarativeWidget:
        """Return the page."""
        assert event_loop is not None
        return Declarative.DeclarativeWidget(ui, event_loop, _Handler())


class _Handler(Declarative.Handler):
    def __init__(self) -> None:
        super().__init__()
        u = Declarative.DeclarativeUI()
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
        return is_wanted(ApplicationData.get_data())

    @start.setter
    def start(self, value: bool) -> None:
        want(value)
        self.property_changed_event.fire("start")
