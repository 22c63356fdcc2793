"""The frame of every panel: main buttons on top, the status line at the bottom, and all the rest scrolls between them.

Swift's window is never smaller than the panels that are docked in it, so a panel without a scroll area makes the window
outgrow the screen. What has to be in reach at any height is in the header and in the footer, which do not scroll.
"""

from __future__ import annotations

import textwrap
import typing

from nion.ui import Declarative

u = Declarative.DeclarativeUI()

WIDTH = 350
"""Least width of a panel in points; what is in it has to fit."""
SCROLLED_HEIGHT = 44
"""Least height of what scrolls: six panels one above another have to fit a screen of 800 pixels."""
TIP_LETTERS = 64
"""Letters in one line of a tool tip; Qt draws a longer text in one line across the screen."""
_MARGIN = 8


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
        u.create_column(header, margin=_MARGIN),
        u.create_divider(orientation="horizontal"),
        u.create_scroll_area(
            u.create_column(*body, u.create_stretch(), spacing=8, margin=_MARGIN),
            min_height=SCROLLED_HEIGHT,
            horizontal_scroll_bar_policy="off",
            vertical_scroll_bar_policy="needed",
        ),
        u.create_divider(orientation="horizontal"),
        u.create_column(footer, margin_horizontal=_MARGIN, margin_vertical=4),
        min_width=WIDTH,
    )
    wrap_tips(view)
    return view


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


def wrapped_tip(text: str) -> str:
    """Return a tool tip in lines of a readable length."""
    return "\n".join(textwrap.fill(line, TIP_LETTERS) for line in text.splitlines())
