"""The menu *STEM AE*: the panels in the order of the work, what runs have written, and the manual."""

from __future__ import annotations

import functools
import gettext
import typing

from nion.swift import DocumentController
from nion.swift.model import Notification

from stem_ae import folders
from stem_ae.errors import StemAeError
from stem_ae.files import output_folder

from . import preferences
from .canvas import toggle_overlays
from .parts import MANUAL, show_help, show_in_files
from .stop_key import MENU_ID, MENU_TITLE

_ = gettext.gettext


def fill(window: DocumentController.DocumentController, panels: typing.Sequence[typing.Any]) -> None:
    """Put the items into the menu of a window that is being made."""
    menu = window.get_or_create_menu(MENU_ID, MENU_TITLE, "window_menu")
    for panel in panels:
        menu.add_menu_item(panel.title, functools.partial(show_panel, window, panel.panel_id))
    menu.add_separator()
    menu.add_menu_item(_("Hide or Show Overlays"), functools.partial(toggle_overlays, window))
    menu.add_menu_item(_("Open Runs Folder"), open_runs)
    menu.add_menu_item(_("Preferences…"), functools.partial(preferences.show, window))
    menu.add_menu_item(_("Manual: Help of All Panels"), functools.partial(show_manual, window))
    menu.add_separator()


def show_manual(window: DocumentController.DocumentController) -> None:
    """Show the pages of all panels."""
    show_help(window, _("STEM AE: manual"), *MANUAL)


def show_panel(window: DocumentController.DocumentController, panel_id: str) -> None:
    """Show a panel, wherever it is docked."""
    workspace = window.workspace_controller
    for panel in workspace.dock_panels if workspace else ():
        if panel.panel_id == panel_id:
            panel.show()


def open_runs() -> None:
    """Open the folder that runs are written to, or say why it cannot be opened."""
    try:
        show_in_files(output_folder(folders.folder("runs")))
    except StemAeError as error:
        sentence = f"{error} Choose another one in STEM AE > Preferences."
        Notification.notify(Notification.Notification("stem_ae.runs", "STEM AE", _("Runs folder"), sentence))
