"""What a calculation says, drawn on the image it came from: where its atoms moved, and where to look next.

As with the rings, all of it is one canvas item that is drawn in a paint thread.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from nion.swift import ImageCanvasItem
from nion.ui import DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

from .canvas import LEGEND_MARGIN, Attached, Key, MarksCanvasItem, Screen, circle, legend

AGREES, DIFFERS, LOOK = "#2FD3A0", "#FF4D6D", "#F0E442"
ENLARGED = 10.0
"""Atoms move by picometres: arrows are so many times longer."""
LINE_WIDTH = 1.8
HEAD = 5.0  # points


@dataclasses.dataclass(frozen=True)
class Place:
    """A place to look at, in pixels of the image."""

    x: float
    y: float
    radius: float
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Moves:
    """What to draw on one image. Never changed once made, so that the paint thread can read it freely."""

    before: NDArray[np.float64]
    """(N, 2), x and y in pixels; pixel centres are integers."""
    after: NDArray[np.float64]
    differs: NDArray[np.bool_]
    """Moved by more than the 95 % ellipse of its position in the image."""
    shape: tuple[int, int]
    places: tuple[Place, ...] = ()

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Moves:
        """Return nothing to draw."""
        return cls(np.empty((0, 2)), np.empty((0, 2)), np.empty(0, bool), shape)


class ArrowsCanvasItem(MarksCanvasItem[Moves]):
    """Arrows of the atoms, and numbered circles. Belongs into the part of the display that zooms with the image."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: Moves) -> None:
        """Draw arrows and circles."""
        screen = Screen.of(marks.shape, bounds)
        if screen is None:
            return
        start = screen.points(marks.before)
        end = start + ENLARGED * (marks.after - marks.before) * screen.per_pixel
        context.line_width = LINE_WIDTH
        for differs, color in ((False, AGREES), (True, DIFFERS)):
            context.stroke_style = color
            chosen = marks.differs == differs
            for (x0, y0), (x1, y1) in zip(start[chosen].tolist(), end[chosen].tolist(), strict=True):
                _arrow(context, x0, y0, x1, y1)
        for place in marks.places:
            x, y = screen.points(np.array([place.x, place.y])).tolist()
            _look_here(context, x, y, place.radius * screen.scale, place.text)


class ArrowsLegendCanvasItem(MarksCanvasItem[Moves]):
    """What the arrows mean, in the corner of the display."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: Moves) -> None:
        """Draw the legend, if there are arrows."""
        if not len(marks.before):
            return
        differ = int(marks.differs.sum())
        rows = [
            (_arrow_key(AGREES), f"{len(marks.before) - differ:,} moved within their errors", ""),
            (_arrow_key(DIFFERS), f"{differ:,} moved by more (arrows × {ENLARGED:g})", ""),
        ]
        legend(context, bounds.right - LEGEND_MARGIN - 264, bounds.top + LEGEND_MARGIN, 264, rows)


def arrows_and_legend(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put arrows and their legend on a display."""
    return Attached(display, ArrowsCanvasItem(), ArrowsLegendCanvasItem())


def _arrow_key(color: str) -> Key:
    def draw(context: DrawingContext.DrawingContext, x: float, y: float) -> None:
        context.stroke_style = color
        _arrow(context, x - 9, y, x + 5, y)

    return draw


def _arrow(context: DrawingContext.DrawingContext, x0: float, y0: float, x1: float, y1: float) -> None:
    direction = math.atan2(y1 - y0, x1 - x0)
    context.begin_path()
    context.move_to(x0, y0)
    context.line_to(x1, y1)
    if math.hypot(x1 - x0, y1 - y0) > HEAD:
        for turn in (2.6, -2.6):
            context.move_to(x1, y1)
            context.line_to(x1 + HEAD * math.cos(direction + turn), y1 + HEAD * math.sin(direction + turn))
    context.stroke()


def _look_here(context: DrawingContext.DrawingContext, x: float, y: float, radius: float, text: str) -> None:
    circle(context, x, y, radius)
    context.stroke_style = LOOK
    context.stroke()
    context.font = "bold 18px sans-serif"
    context.text_baseline = "middle"
    context.fill_style = LOOK
    context.fill_text(text, x + 0.75 * radius + 4, y - 0.75 * radius - 8)
