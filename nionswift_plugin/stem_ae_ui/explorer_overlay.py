"""The explorer's way over the survey image: where it measured, in which order, and what is forced next."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from nion.swift import ImageCanvasItem
from nion.ui import DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

from .canvas import LEGEND_MARGIN, Attached, MarksCanvasItem, Screen, box, circle

WAY, DONE, LAST, FORCED = "rgba(255, 255, 255, 0.55)", "#56B4E9", "#F0E442", "#FF4DFF"
RADIUS, LINE_WIDTH = 4.0, 1.2  # points


@dataclasses.dataclass(frozen=True, eq=False)
class WayMarks:
    """What to draw on one image. Never changed once made, so that the paint thread can read it freely."""

    points_px: NDArray[np.float64]
    """(N, 2), x and y in pixels, in the order they were measured."""
    forced_px: NDArray[np.float64]
    """(K, 2), those that wait because the user asked for them."""
    shape: tuple[int, int]
    words: str


class WayCanvasItem(MarksCanvasItem[WayMarks]):
    """Points and the way between them. Belongs into the part of the display that zooms with the image."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: WayMarks) -> None:
        """Draw way and points."""
        screen = Screen.of(marks.shape, bounds)
        if screen is None:
            return
        context.line_width = LINE_WIDTH
        points = screen.points(marks.points_px).tolist()
        _line(context, points)
        for number, point in enumerate(points):
            _dot(context, point, LAST if number == len(points) - 1 else DONE)
        for point in screen.points(marks.forced_px).tolist():
            _dot(context, point, FORCED)


class WordsCanvasItem(MarksCanvasItem[WayMarks]):
    """How far it is, in the corner of the display."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: WayMarks) -> None:
        """Write the words."""
        if marks.words:
            left, top = bounds.left + LEGEND_MARGIN, bounds.top + LEGEND_MARGIN
            box(context, left, top, 20 + 8 * len(marks.words), 26)
            context.fill_text(marks.words, left + 10, top + 13)


def way_and_words(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put the way and its words on a display."""
    return Attached(display, WayCanvasItem(), WordsCanvasItem())


def _line(context: DrawingContext.DrawingContext, points: list[list[float]]) -> None:
    context.stroke_style = WAY
    for start, end in itertools.pairwise(points):  # a path of its own each: Qt is slow with long ones
        context.begin_path()
        context.move_to(*start)
        context.line_to(*end)
        context.stroke()


def _dot(context: DrawingContext.DrawingContext, point: list[float], color: str) -> None:
    x, y = point
    circle(context, x, y, RADIUS)
    context.stroke_style = "rgba(0, 0, 0, 0.7)"
    context.fill_style = color
    context.fill()
    context.stroke()
