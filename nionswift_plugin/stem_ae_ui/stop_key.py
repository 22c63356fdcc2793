"""The key that stops: an item of the menu in document windows, and asked for by name in all of Swift's others."""

from __future__ import annotations

import functools
import gettext
import typing
import weakref

from nion.swift import DocumentController
from nion.ui import UserInterface, Window

from .beam_watch import STOP_KEY, WATCH

_ = gettext.gettext

ACTION_ID = "stem_ae.stop"
MENU_ID, MENU_TITLE = "stem_ae_menu", _("STEM AE")
_QT_KEY = 0x01000030 + int(STOP_KEY.removeprefix("F")) - 1


class StopAction(Window.Action):
    """Blanks the beam and ends what is under way, whoever does it."""

    action_id = ACTION_ID
    action_name = _("Stop: Blank the Beam")

    def execute(self, context: Window.ActionContext) -> Window.ActionResult:
        """Stop."""
        WATCH.stop()
        return Window.ActionResult(Window.ActionStatus.FINISHED)


class StopKey:
    """Makes the key work in a document window, and in the windows beside it. For the user interface thread.

    A menu's key works wherever the focus is in its window. Dialogs have windows of their own, without menus: there the
    key arrives if nothing else in the window wants it.

    Parameters
    ----------
    window : DocumentController
        The window, which has its menus already.
    """

    def __init__(self, window: DocumentController.DocumentController) -> None:
        self.__window = window
        self.__known: weakref.WeakSet[Window.Window] = weakref.WeakSet([window])
        if ACTION_ID not in Window.actions:
            Window.register_action(StopAction())
        menu = window.get_or_create_menu(MENU_ID, MENU_TITLE, "window_menu")
        if not any(item.action_id == ACTION_ID for item in menu.get_menu_actions()):
            perform = functools.partial(window.perform_action, ACTION_ID)
            menu.add_menu_item(StopAction.action_name, perform, key_sequence=STOP_KEY, action_id=ACTION_ID)

    def tick(self) -> None:
        """Listen to windows that are new."""
        app = self.__window.app
        for window in app.windows if app else ():
            if window not in self.__known:
                self.__known.add(window)
                if not isinstance(window, DocumentController.DocumentController):
                    _listen(window)


def _listen(window: Window.Window) -> None:
    native = window._document_window
    before: typing.Callable[[UserInterface.Key], bool] | None = native.on_key_pressed

    def pressed(key: UserInterface.Key) -> bool:
        if key.key == _QT_KEY:
            WATCH.stop()
            return True
        return before(key) if before else False

    if getattr(before, "__name__", "") != pressed.__name__:  # another document window's panel was first
        native.on_key_pressed = pressed
