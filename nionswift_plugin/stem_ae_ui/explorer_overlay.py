"""The explorer's way over the survey image: where it measured, in which order, and what is forced next."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from nion.swift import ImageCanvasItem
from nion.ui import CanvasItem, DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

from .overlay import LEGEND_FONT, LEGEND_MARGIN, Attached

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


class _MarksCanvasItem(CanvasItem.AbstractCanvasItem):
    def __init__(self) -> None:
        super().__init__()
        self.__marks: WayMarks | None = None

    @property
    def marks(self) -> WayMarks | None:
        """What is drawn."""
        return self.__marks

    @marks.setter
    def marks(self, marks: WayMarks | None) -> None:
        if marks is not self.__marks:
            self.__marks = marks
            self.update()


class WayCanvasItem(_MarksCanvasItem):
    """Points and the way between them. Belongs into the part of the display that zooms with the image."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _WayComposer(self, composer_cache, self.marks)


class WordsCanvasItem(_MarksCanvasItem):
    """How far it is, in the corner of the display."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _WordsComposer(self, composer_cache, self.marks)


def way_and_words(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put the way and its words on a display."""
    return Attached(display, WayCanvasItem(), WordsCanvasItem())


class _Composer(CanvasItem.BaseComposer):
    def __init__(self, item: _MarksCanvasItem, cache: CanvasItem.ComposerCache, marks: WayMarks | None) -> None:
        super().__init__(item, item.layout_sizing, cache)
        self._marks = marks


class _WayComposer(_Composer):
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
            points = ((marks.points_px + 0.5) * scale + corner).tolist()
            _line(drawing_context, points)
            for number, point in enumerate(points):
                _dot(drawing_context, point, LAST if number == len(points) - 1 else DONE)
            for point in ((marks.forced_px + 0.5) * scale + corner).tolist():
                _dot(drawing_context, point, FORCED)


def _line(context: DrawingContext.DrawingContext, points: list[list[float]]) -> None:
    context.stroke_style = WAY
    for start, end in itertools.pairwise(points):  # a path of its own each: Qt is slow with long ones
        context.begin_path()
        context.move_to(*start)
        context.line_to(*end)
        context.stroke()


def _dot(context: DrawingContext.DrawingContext, point: list[float], color: str) -> None:
    x, y = point
    context.begin_path()
    context.move_to(x + RADIUS, y)
    context.arc(x, y, RADIUS, 0.0, 2.0 * math.pi)
    context.stroke_style = "rgba(0, 0, 0, 0.7)"
    context.fill_style = color
    context.fill()
    context.stroke()


class _WordsComposer(_Composer):
    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        marks = self._marks
        if marks is None or not marks.words:
            return
        left, top = canvas_bounds.left + LEGEND_MARGIN, canvas_bounds.top + LEGEND_MARGIN
        with drawing_context.saver():
            drawing_context.begin_path()
            drawing_context.round_rect(left, top, 20 + 8 * len(marks.words), 26, 6)
            drawing_context.fill_style = "rgba(0, 0, 0, 0.60)"
            drawing_context.fill()
            drawing_context.font = LEGEND_FONT
            drawing_context.text_baseline = "middle"
            drawing_context.text_align = "left"
            drawing_context.fill_style = "white"
            drawing_context.fill_text(marks.words, left + 10, top + 13)
