"""What holds for all panels: where files are kept and how networks compute, and its pane in Swift's preferences.

Each preference becomes an environment variable of Swift, so that the processes that it starts heed it too.
"""

from __future__ import annotations

import dataclasses
import gettext
import os
import pathlib

from nion.swift import DocumentController
from nion.ui import Declarative, PreferencesDialog, UserInterface
from nion.utils import Event

from stem_ae import folders
from stem_ae.errors import StemAeError
from stem_ae.files import output_folder

from . import preference_page
from .panel_frame import note

_ = gettext.gettext
u = Declarative.DeclarativeUI()

KEY = "stem_ae"
VARIABLES = {
    **{str(kind): variable for kind, variable in folders.VARIABLES.items()},
    "device": "STEM_AE_DEVICE", "threads": "STEM_AE_THREADS",
}  # fmt: skip
"""The environment variable of each preference."""
DEVICES = ("", "cpu", "cuda")
DEVICE_NAMES = ("automatic", "CPU", "GPU")
changed_event = Event.Event()
"""Fired after a preference was changed, in the user interface thread."""


@dataclasses.dataclass(frozen=True)
class Preferences:
    """The preferences as typed; empty: as usual."""

    runs: str = ""
    queue: str = ""
    models: str = ""
    device: str = ""
    threads: str = ""

    @classmethod
    def stored(cls) -> Preferences:
        """Return what is stored; what this version does not understand is left out."""
        known = preference_page.stored(KEY)
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: known[name] for name in names if isinstance(known.get(name), str)})

    def store(self) -> None:
        """Store them with Swift's own."""
        preference_page.store(KEY, dataclasses.asdict(self))


_given: dict[str, str | None] = {}
"""The environment variables as Swift was started with them."""


def begin() -> None:
    """Let the stored preferences hold from now on."""
    if not _given:
        _given.update({variable: os.environ.get(variable) for variable in VARIABLES.values()})
    _apply(Preferences.stored())


def end() -> None:
    """Leave the environment as it was before :func:`begin`."""
    _apply(Preferences())
    _given.clear()


def change(name: str, text: str) -> None:
    """Change one preference; it holds for everything that is started next.

    Raises
    ------
    StemAeError
        If the folder cannot be written to, or the number of threads is none.
    """
    text = _checked(name, text.strip())
    preferences = Preferences.stored()
    if text != getattr(preferences, name):
        preferences = dataclasses.replace(preferences, **{name: text})
        preferences.store()
        _apply(preferences)
        changed_event.fire()


def usual(name: str) -> str:
    """Return what holds while a preference is empty."""
    given = _given.get(VARIABLES[name])
    if given:
        return given
    if name in folders.VARIABLES:
        return str(folders.usual(name))
    return str(max(1, (os.cpu_count() or 2) - 1)) if name == "threads" else ""


def _checked(name: str, text: str) -> str:
    if name in folders.VARIABLES and text:
        path = pathlib.Path(text).expanduser()
        if not path.is_absolute():
            raise StemAeError(f"“{text}” is not a complete path: type the folder from its root, or press Choose.")
        return str(output_folder(path))
    most = os.cpu_count() or 1
    if name == "threads" and text and not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise StemAeError(f"“{text}” is not a number of threads: type a whole number from 1 to {most}, or nothing.")
    return text


def _apply(preferences: Preferences) -> None:
    for name, variable in VARIABLES.items():
        value = getattr(preferences, name) or _given.get(variable)
        if value:
            os.environ[variable] = value
        else:
            os.environ.pop(variable, None)


# --- the pane ---------------------------------------------------------------------------------------------------------


def page() -> preference_page.Page:
    """Return the page of Swift's preferences."""
    return preference_page.Page(KEY, _("STEM AE"), PaneHandler)


def show(window: DocumentController.DocumentController) -> None:
    """Open Swift's preferences at our page: Swift opens the first one, so ours is the first of the list meanwhile."""
    delegates = PreferencesDialog.PreferencesManager().preference_pane_delegates
    in_order = list(delegates)
    try:
        delegates.sort(key=lambda delegate: delegate.identifier != KEY)
        window.open_preferences()
    finally:
        delegates[:] = in_order


def _text(name: str) -> property:
    def get(self: PaneHandler) -> str:
        return str(getattr(Preferences.stored(), name))

    def put(self: PaneHandler, text: str | None) -> None:
        self.change(name, text or "")

    return property(get, put)


class PaneHandler(Declarative.Handler):
    """The view on the preferences."""

    runs = _text("runs")
    queue = _text("queue")
    models = _text("models")
    threads = _text("threads")

    def __init__(self, ui: UserInterface.UserInterface) -> None:
        super().__init__()
        self.__ui = ui
        self.complaint = ""
        """What is wrong with what was typed."""
        self.__listener = changed_event.listen(self.__changed)
        self.ui_view = u.create_column(
            self.__folder_row(_("Runs are written to"), "runs"),
            self.__folder_row(_("Calculations are in"), "queue"),
            self.__folder_row(_("Your models are in"), "models"),
            u.create_row(
                self.__name(_("Networks, Explorer on")),
                u.create_combo_box(
                    items=[_(name) for name in DEVICE_NAMES], current_index="@binding(device_index)",
                    name="device_combo", width=110,
                ),
                u.create_label(text=_("with"), text_alignment_vertical="vcenter"),
                u.create_line_edit(
                    text="@binding(threads)", width=44, name="threads_edit", placeholder_text=usual("threads")
                ),
                u.create_label(text=_("threads"), text_alignment_vertical="vcenter"),
                u.create_stretch(),
                spacing=6,
            ),
            note("@binding(complaint)", 2, color="#C62828", name="complaint_label"),
            u.create_label(
                text=_(
                    "Changes apply to what is started next: the next run, the next calculation, the next Start of the "
                    "Atoms panel.\nAn empty field means the usual, in grey. Files that are there already are not moved."
                ),
                word_wrap=True,
            ),
            u.create_stretch(),
            spacing=8,
            margin=12,
        )  # fmt: skip

    def close(self) -> None:
        """Stop listening."""
        self.__listener.close()
        super().close()

    @staticmethod
    def __name(text: str) -> Declarative.UIDescription:
        return u.create_label(text=text, width=150, text_alignment_vertical="vcenter")

    def __folder_row(self, title: str, name: str) -> Declarative.UIDescription:
        return u.create_row(
            self.__name(title),
            u.create_line_edit(
                text=f"@binding({name})", name=f"{name}_edit", placeholder_text=usual(name), clear_button_enabled=True,
            ),
            u.create_push_button(text=_("Choose…"), on_clicked=f"choose_{name}_clicked", name=f"choose_{name}_button"),
            spacing=6,
        )  # fmt: skip

    @property
    def device_index(self) -> int:
        """Where networks compute, as a place in ``DEVICES``."""
        device = Preferences.stored().device
        return DEVICES.index(device) if device in DEVICES else 0

    @device_index.setter
    def device_index(self, index: int | None) -> None:
        if index is not None:
            self.change("device", DEVICES[index])

    def change(self, name: str, text: str) -> None:
        """Change a preference, or say why it stays as it is."""
        try:
            change(name, text)
            self.complaint = ""
        except StemAeError as error:
            self.complaint = str(error)
        self.__changed()

    def __changed(self) -> None:
        for name in ("runs", "queue", "models", "threads", "device_index", "complaint"):
            self.notify_property_changed(name)

    def __choose(self, title: str, name: str) -> None:
        now = getattr(self, name) or usual(name)
        folder, _directory = self.__ui.get_existing_directory_dialog(title, now)
        if folder:
            self.change(name, folder)

    def choose_runs_clicked(self, widget: Declarative.UIWidget) -> None:
        """Choose where runs are written to; cancelled, it stays as it is."""
        self.__choose(_("Write runs to"), "runs")

    def choose_queue_clicked(self, widget: Declarative.UIWidget) -> None:
        """Choose where calculations are kept."""
        self.__choose(_("Keep calculations in"), "queue")

    def choose_models_clicked(self, widget: Declarative.UIWidget) -> None:
        """Choose where models are kept."""
        self.__choose(_("Keep models in"), "models")
