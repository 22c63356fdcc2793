"""The menu *STEM AE*: the panels in the order of the work, what runs have written, and the manual."""

from __future__ import annotations

import functools
import gettext
import pathlib
import typing
import webbrowser

import platformdirs
from nion.swift import DocumentController

from .canvas import toggle_overlays
from .parts import MANUAL, show_help
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
    menu.add_menu_item(_("Manual"), functools.partial(show_manual, window))
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
    """Open the folder in which runs are kept unless another one was chosen."""
    folder = pathlib.Path(platformdirs.user_data_dir("stem_ae"), "runs")
    folder.mkdir(parents=True, exist_ok=True)
    webbrowser.open(folder.as_uri())
