"""The targets on the image: numbered circles in the colour of their state, forbidden zones, what is being drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
from nion.swift import ImageCanvasItem
from nion.ui import DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

from .canvas import LEGEND_MARGIN, Attached, MarksCanvasItem, Screen, circle, legend, ring_key
from .ejection_fates import Fate
from .ejection_texts import state_words

COLORS = {
    "waiting": "#FFFFFF", "aiming": "#F0E442", "exposing": "#FF4DFF", "verifying": "#F0E442",
    "unclear": "#F0A020", "done": "#2FD3A0", "failed": "#FF4D6D",
}  # fmt: skip
"""Colour of each state a target can be in."""
REHEARSED = "#B39DFF"
"""Colour of targets whose state was only rehearsed; their circles are dashed."""
ZONE, DRAWN = "#FF4D6D", "#F0E442"
RADIUS, LINE_WIDTH, CORNER = 0.75, 2.2, 3.0  # Å; points; points
SMALLEST, DASH = 5.0, 3  # points
FONT = "bold 12px sans-serif"


@dataclasses.dataclass(frozen=True, eq=False)
class TargetMarks:
    """What to draw on one image. Never changed once made, so that the paint thread can read it freely."""

    positions_px: NDArray[np.float64]
    """(K, 2), x and y in pixels; pixel centres are integers."""
    states: tuple[str, ...]
    shape: tuple[int, int]
    radius_px: float
    zones_px: tuple[NDArray[np.float64], ...] = ()
    """Corners of each forbidden zone."""
    drawn_px: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    """Corners of what the user is drawing."""
    is_rehearsed: bool = False
    """Whether the states are from a rehearsal."""


class TargetsCanvasItem(MarksCanvasItem[TargetMarks]):
    """Circles, numbers and zones. Belongs into the part of the display that zooms with the image."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: TargetMarks) -> None:
        """Draw zones, targets, and what the user is drawing."""
        screen = Screen.of(marks.shape, bounds)
        if screen is None:
            return
        context.line_width = LINE_WIDTH
        for zone in marks.zones_px:
            _outline(context, screen.points(zone), ZONE, closed=True)
        if len(marks.drawn_px):
            _outline(context, screen.points(marks.drawn_px), DRAWN, closed=False)
        radius = max(SMALLEST, marks.radius_px * screen.scale)
        centres = screen.points(marks.positions_px).tolist()
        for number, ((x, y), state) in enumerate(zip(centres, marks.states, strict=True), 1):
            context.line_dash = DASH if _is_rehearsed(marks, state) else 0
            _target(context, x, y, radius, _color(marks, state), str(number))


class TargetsLegendCanvasItem(MarksCanvasItem[TargetMarks]):
    """How many targets are in which state, in the right corner of the display."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: TargetMarks) -> None:
        """Draw the legend, if there are targets."""
        counts = [(state, marks.states.count(state)) for state in COLORS if state in marks.states]
        if counts:
            rows = [(ring_key(_color(marks, state)), _words(marks, state), f"{count:,}") for state, count in counts]
            if marks.is_rehearsed:
                rows.insert(0, (lambda *place: None, "REHEARSAL", ""))
            legend(context, bounds.right - LEGEND_MARGIN - 170, bounds.top + LEGEND_MARGIN, 170, rows)


def targets_and_legend(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put targets and their legend on a display."""
    return Attached(display, TargetsCanvasItem(), TargetsLegendCanvasItem())


def _is_rehearsed(marks: TargetMarks, state: str) -> bool:
    return marks.is_rehearsed and state != "waiting"


def _color(marks: TargetMarks, state: str) -> str:
    return REHEARSED if _is_rehearsed(marks, state) else COLORS[state]


def _words(marks: TargetMarks, state: str) -> str:
    return state_words(Fate(state=state), marks.is_rehearsed)


def _outline(context: DrawingContext.DrawingContext, points: NDArray[np.float64], color: str, closed: bool) -> None:
    context.stroke_style = context.fill_style = color
    context.begin_path()
    context.move_to(*points[0].tolist())
    for x, y in points[1:].tolist():
        context.line_to(x, y)
    if closed:
        context.close_path()
    context.stroke()
    for x, y in points.tolist():
        context.begin_path()
        context.rect(x - CORNER, y - CORNER, 2 * CORNER, 2 * CORNER)
        context.fill()


def _target(
    context: DrawingContext.DrawingContext, x: float, y: float, radius: float, color: str, number: str
) -> None:
    circle(context, x, y, radius)
    context.stroke_style = color
    context.stroke()
    context.font = FONT
    context.text_baseline = "middle"
    context.text_align = "left"
    context.fill_style = "black"  # a shadow: numbers lie on bright atoms and on dark ground
    context.fill_text(number, x + 0.75 * radius + 3, y - radius + 1)
    context.fill_style = color
    context.fill_text(number, x + 0.75 * radius + 2, y - radius)
