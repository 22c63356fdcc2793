"""The frame of every panel: main buttons on top, the status line at the bottom, and all the rest scrolls between them.

Swift's window is never smaller than the panels that are docked in it, so a panel without a scroll area makes the window
outgrow the screen. What has to be in reach at any height is in the header and in the footer, which do not scroll.
"""

from __future__ import annotations

import time
import typing

from nion.swift import DocumentController, Panel
from nion.ui import Declarative, UserInterface, Widgets

from . import swift_versions
from .fitted import FittedInterface, color_list, wrapped_tip

u = Declarative.DeclarativeUI()

WIDTH = 370
"""Least width of a panel in points; what is in it has to fit."""
SCROLLED_HEIGHT = 26
"""Least height of what scrolls: six panels one above another have to fit a screen of 800 pixels."""
CENTRE = {"min-width": 420, "min-height": 300}
"""Least size of Swift's displays while panels are at both sides of them, in points; Swift's own is 640 x 480."""
DATA_PANEL_HEIGHT = 160
"""Least height of Swift's data panel's list; Swift's own is 320."""
LINE = 16
"""Height of a line of text in points."""
STATUS_HEIGHT = 20
_MARGIN = 8
_LOOK_S = 0.5
_SETTLING = 3
_ASKED_LINES = 50


def frame(
    header: Declarative.UIDescription,
    body: typing.Sequence[Declarative.UIDescription],
    footer: Declarative.UIDescription,
) -> Declarative.UIDescription:
    """Return a panel that fits any height.

    Parameters
    ----------
    header : description
        The main buttons, at fixed places: nothing in it may change its size.
    body : descriptions
        What scrolls, from top to bottom.
    footer : description
        The status line, and what else has to be in view.
    """
    view = u.create_column(
        u.create_column(header, margin_horizontal=_MARGIN, margin_vertical=6),
        u.create_divider(orientation="horizontal"),
        u.create_scroll_area(
            u.create_column(*body, u.create_stretch(), spacing=8, margin=_MARGIN, name="scrolled_column"),
            min_height=SCROLLED_HEIGHT,
            name="scroll_area",
            horizontal_scroll_bar_policy="off",
            vertical_scroll_bar_policy="needed",
        ),
        u.create_divider(orientation="horizontal"),
        u.create_column(footer, margin_horizontal=_MARGIN, margin_vertical=4),
        min_width=WIDTH,
    )
    wrap_tips(view)
    # Qt gives a panel that is opened the height that it asks for, which only a text can do.
    return u.create_row(view, u.create_label(text="\n" * _ASKED_LINES, width=1, min_height=1, name="strut"))


def wrap_tips(view: typing.Any) -> None:
    """Give the tool tips in a description lines of a readable length."""
    if isinstance(view, dict):
        if isinstance(tip := view.get("tool_tip"), str) and not tip.startswith("@"):
            view["tool_tip"] = wrapped_tip(tip)
        for value in view.values():
            wrap_tips(value)
    elif isinstance(view, list | tuple):
        for value in view:
            wrap_tips(value)


def note(text: str, lines: int = 1, **options: typing.Any) -> Declarative.UIDescription:
    """Return a text that may come, go and change: its lines are kept for it, and what does not fit is a tool tip."""
    return u.create_label(text=text, height=lines * LINE, text_alignment_vertical="top", **options)


def status_lines(
    status: str, detail: str, *, status_color: str | None = None, detail_color: str | None = None
) -> Declarative.UIDescription:
    """Return a footer: one line that says what goes on, and below it what is to be known about it.

    The lower text has one line in a low panel, and three in a high one. The arguments are bindings.
    """
    colors = [{"color": color} if color else {} for color in (status_color, detail_color)]
    return u.create_column(
        u.create_label(
            text=status, font="bold 15px", height=STATUS_HEIGHT, text_alignment_vertical="vcenter",
            name="status_label", **colors[0],
        ),
        u.create_label(
            text=detail, min_height=LINE, max_height=3 * LINE, size_policy_vertical="maximum",
            text_alignment_vertical="top", name="detail_label", **colors[1],
        ),
        spacing=2,
    )  # fmt: skip


class FramedWidget(Declarative.DeclarativeWidget):
    """A panel made of a frame: what is in it follows its size and Swift's theme.

    Parameters
    ----------
    window : DocumentController
        Which it belongs to.
    handler : Handler
        With a :func:`frame` as its ``ui_view``. Its ``theme_changed``, if any, is called with True for a dark theme.
    """

    def __init__(self, window: DocumentController.DocumentController, handler: Declarative.HandlerLike) -> None:
        make_room(window)
        self.__window = window
        self.__ui = FittedInterface(window.ui, swift_versions.is_dark(window))
        self.__sizes: typing.Any = None
        self.__unsettled = 0
        self.__looked_at = 0.0
        super().__init__(typing.cast(UserInterface.UserInterface, self.__ui), window.event_loop, handler)
        self.__handler: typing.Any = handler
        self.__color_lists()

    def periodic(self) -> None:
        """Look for another size, and now and then for another theme."""
        super().periodic()
        sizes = [self.size, self.__handler.scrolled_column.size]
        if sizes != self.__sizes:
            self.__sizes, self.__unsettled = sizes, _SETTLING
        if self.__unsettled:  # Qt arranges later what has another size now
            self.__unsettled -= 1
            self.__ui.fit()
        if time.monotonic() > self.__looked_at + _LOOK_S:
            self.__looked_at = time.monotonic()
            is_dark = swift_versions.is_dark(self.__window)
            if is_dark != self.__ui.is_dark:
                self.__ui.is_dark = is_dark
                self.__color_lists()

    def __color_lists(self) -> None:
        for widget in vars(self.__handler).values():
            if isinstance(widget, Widgets.ListWidget):
                color_list(widget, self.__ui.is_dark)
        if themed := getattr(self.__handler, "theme_changed", None):
            themed(self.__ui.is_dark)


def make_room(window: DocumentController.DocumentController) -> None:
    """Let Swift's displays give room to the panels beside them, so that the window fits a small screen."""
    root = window._document_window.root_widget
    if root:
        for name, value in CENTRE.items():
            root.set_property(name, value)


def make_room_beside() -> None:
    """Let Swift's data panel give room to the panels below it; has an effect on windows that are opened later."""
    manager = Panel.PanelManager()
    if "data-panel" in manager.panel_ids:
        properties = manager.get_panel_info("data-panel")[3]
        if properties:
            properties["min-height"] = DATA_PANEL_HEIGHT
