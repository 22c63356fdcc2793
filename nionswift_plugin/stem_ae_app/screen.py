"""What scenarios need: waiting, arranging the window, pictures of it."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import pathlib
import sys
import time
import typing

from nion.swift import DocumentController, Workspace
from PIL import ImageGrab

from stem_ae.errors import StemAeError


async def wait_until(
    condition: typing.Callable[[], typing.Any], what: str | typing.Callable[[], str], timeout_s: float = 120.0
) -> typing.Any:
    """Return what the condition returns as soon as that is true; ``what`` tells what is waited for.

    Raises
    ------
    StemAeError
        If it has not become true in time; what every thread was doing then is in Swift's log.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            faulthandler.dump_traceback(sys.__stderr__ or 2)
            raise StemAeError(f"Waited {timeout_s:.0f} s in vain for {what() if callable(what) else what}.")
        await asyncio.sleep(0.05)
    return value


def workspace(window: DocumentController.DocumentController) -> Workspace.Workspace:
    """Return the window's workspace: its displays and its panels."""
    controller = window.workspace_controller
    assert controller is not None
    return controller


def show_only(window: DocumentController.DocumentController, *panel_ids: str) -> None:
    """Show the named dock panels and hide the others at the sides."""
    for dock_panel in workspace(window).dock_panels:
        if dock_panel.panel_id in panel_ids:
            dock_panel.show()
        else:
            dock_panel.hide()


def fill_screen(window: DocumentController.DocumentController) -> None:
    """Make the window as large as the screen."""
    window._document_window.fill_screen()


def grab(path: pathlib.Path) -> str:
    """Write a picture of the screen and return the file's name."""
    display = os.environ.get("DISPLAY") if sys.platform == "linux" else None
    ImageGrab.grab(xdisplay=display).save(path)
    return path.name
