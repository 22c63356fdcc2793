"""The targets on the image: numbered circles in the colour of their state, forbidden zones, what is being drawn."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from nion.swift import ImageCanvasItem
from nion.ui import CanvasItem, DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

from .overlay import LEGEND_FONT, LEGEND_MARGIN, LEGEND_ROW, Attached

COLORS = {
    "waiting": "#FFFFFF", "aiming": "#F0E442", "exposing": "#FF4DFF", "verifying": "#F0E442", "done": "#2FD3A0",
    "failed": "#FF4D6D",
}  # fmt: skip
"""Colour of each state a target can be in."""
ZONE, DRAWN = "#FF4D6D", "#F0E442"
RADIUS, LINE_WIDTH, CORNER = 0.75, 2.2, 3.0  # Å; points; points
SMALLEST = 5.0  # points
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


class _MarksCanvasItem(CanvasItem.AbstractCanvasItem):
    def __init__(self) -> None:
        super().__init__()
        self.__marks: TargetMarks | None = None

    @property
    def marks(self) -> TargetMarks | None:
        """What is drawn."""
        return self.__marks

    @marks.setter
    def marks(self, marks: TargetMarks | None) -> None:
        if marks is not self.__marks:
            self.__marks = marks
            self.update()


class TargetsCanvasItem(_MarksCanvasItem):
    """Circles, numbers and zones. Belongs into the part of the display that zooms with the image."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _TargetsComposer(self, composer_cache, self.marks)


class TargetsLegendCanvasItem(_MarksCanvasItem):
    """How many targets are in which state, in the right corner of the display."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _LegendComposer(self, composer_cache, self.marks)


def targets_and_legend(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put targets and their legend on a display."""
    return Attached(display, TargetsCanvasItem(), TargetsLegendCanvasItem())


class _Composer(CanvasItem.BaseComposer):
    def __init__(self, item: _MarksCanvasItem, cache: CanvasItem.ComposerCache, marks: TargetMarks | None) -> None:
        super().__init__(item, item.layout_sizing, cache)
        self._marks = marks


class _TargetsComposer(_Composer):
    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        marks = self._marks
        mapping = marks and ImageCanvasItem.ImageCanvasItemMapping.make(marks.shape, canvas_bounds, [])
        if not (marks and mapping):
            return
        area = mapping.canvas_rect
        scale = np.array([area.width / marks.shape[1], area.height / marks.shape[0]])
        corner = np.array([area.left, area.top])
        with drawing_context.saver():
            drawing_context.line_width = LINE_WIDTH
            for zone in marks.zones_px:
                _outline(drawing_context, (zone + 0.5) * scale + corner, ZONE, closed=True)
            if len(marks.drawn_px):
                _outline(drawing_context, (marks.drawn_px + 0.5) * scale + corner, DRAWN, closed=False)
            radius = max(SMALLEST, marks.radius_px * float(scale.mean()))
            centres = (marks.positions_px + 0.5) * scale + corner
            for number, ((x, y), state) in enumerate(zip(centres.tolist(), marks.states, strict=True), 1):
                _target(drawing_context, x, y, radius, COLORS[state], str(number))


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
    context.begin_path()
    context.move_to(x + radius, y)
    context.arc(x, y, radius, 0.0, 2.0 * math.pi)
    context.stroke_style = color
    context.stroke()
    context.font = FONT
    context.text_baseline = "middle"
    context.text_align = "left"
    context.fill_style = "black"  # a shadow: numbers lie on bright atoms and on dark ground
    context.fill_text(number, x + 0.75 * radius + 3, y - radius + 1)
    context.fill_style = color
    context.fill_text(number, x + 0.75 * radius + 2, y - radius)


class _LegendComposer(_Composer):
    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        marks = self._marks
        if marks is None or not marks.states:
            return
        rows = [(state, marks.states.count(state)) for state in COLORS if state in marks.states]
        height = LEGEND_ROW * len(rows) + 10
        left, top = canvas_bounds.right - LEGEND_MARGIN - 150, canvas_bounds.top + LEGEND_MARGIN
        with drawing_context.saver():
            drawing_context.begin_path()
            drawing_context.round_rect(left, top, 150, height, 6)
            drawing_context.fill_style = "rgba(0, 0, 0, 0.60)"
            drawing_context.fill()
            drawing_context.font = LEGEND_FONT
            drawing_context.text_baseline = "middle"
            drawing_context.line_width = 2.0
            for row, (state, count) in enumerate(rows):
                y = top + 5 + LEGEND_ROW * (row + 0.5)
                drawing_context.begin_path()
                drawing_context.move_to(left + 20, y)
                drawing_context.arc(left + 15, y, 5, 0.0, 2.0 * math.pi)
                drawing_context.stroke_style = COLORS[state]
                drawing_context.stroke()
                drawing_context.fill_style = "white"
                drawing_context.text_align = "left"
                drawing_context.fill_text(state, left + 28, y)
                drawing_context.text_align = "right"
                drawing_context.fill_text(f"{count:,}", left + 140, y)
