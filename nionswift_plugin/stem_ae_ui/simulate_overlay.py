"""What a calculation says, drawn on the image it came from: where its atoms moved, and where to look next.

As with the rings, all of it is one canvas item that is drawn in a paint thread.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from nion.swift import ImageCanvasItem
from nion.ui import CanvasItem, DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

from .overlay import LEGEND_FONT, LEGEND_MARGIN, LEGEND_ROW, Attached

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


class _MovesCanvasItem(CanvasItem.AbstractCanvasItem):
    def __init__(self) -> None:
        super().__init__()
        self.__marks: Moves | None = None

    @property
    def marks(self) -> Moves | None:
        """What is drawn."""
        return self.__marks

    @marks.setter
    def marks(self, marks: Moves | None) -> None:
        if marks is not self.__marks:
            self.__marks = marks
            self.update()


class ArrowsCanvasItem(_MovesCanvasItem):
    """Arrows of the atoms, and numbered circles. Belongs into the part of the display that zooms with the image."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _ArrowsComposer(self, composer_cache, self.marks)


class ArrowsLegendCanvasItem(_MovesCanvasItem):
    """What the arrows mean, in the corner of the display."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _LegendComposer(self, composer_cache, self.marks)


def arrows_and_legend(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put arrows and their legend on a display."""
    return Attached(display, ArrowsCanvasItem(), ArrowsLegendCanvasItem())


class _MovesComposer(CanvasItem.BaseComposer):
    def __init__(self, item: _MovesCanvasItem, cache: CanvasItem.ComposerCache, moves: Moves | None) -> None:
        super().__init__(item, item.layout_sizing, cache)
        self._moves = moves


class _ArrowsComposer(_MovesComposer):
    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        moves = self._moves
        mapping = moves and ImageCanvasItem.ImageCanvasItemMapping.make(moves.shape, canvas_bounds, [])
        if not (moves and mapping):
            return
        area = mapping.canvas_rect
        scale = np.array([area.width / moves.shape[1], area.height / moves.shape[0]])
        corner = np.array([area.left, area.top])
        start = (moves.before + 0.5) * scale + corner
        end = start + ENLARGED * (moves.after - moves.before) * scale
        with drawing_context.saver():
            drawing_context.line_width = LINE_WIDTH
            for differs, color in ((False, AGREES), (True, DIFFERS)):
                drawing_context.stroke_style = color
                chosen = moves.differs == differs
                for (x0, y0), (x1, y1) in zip(start[chosen].tolist(), end[chosen].tolist(), strict=True):
                    _arrow(drawing_context, x0, y0, x1, y1)
            for place in moves.places:
                x, y = (np.array([place.x, place.y]) + 0.5) * scale + corner
                _circle(drawing_context, float(x), float(y), place.radius * float(scale.mean()), place.text)


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


def _circle(context: DrawingContext.DrawingContext, x: float, y: float, radius: float, text: str) -> None:
    context.begin_path()
    context.move_to(x + radius, y)
    context.arc(x, y, radius, 0.0, 2.0 * math.pi)
    context.stroke_style = LOOK
    context.stroke()
    context.font = "bold 18px sans-serif"
    context.text_baseline = "middle"
    context.fill_style = LOOK
    context.fill_text(text, x + 0.75 * radius + 4, y - 0.75 * radius - 8)


class _LegendComposer(_MovesComposer):
    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        moves = self._moves
        if moves is None or not len(moves.before):
            return
        differ = int(moves.differs.sum())
        rows = [
            (AGREES, f"{len(moves.before) - differ:,} moved within their errors"),
            (DIFFERS, f"{differ:,} moved by more (arrows × {ENLARGED:g})"),
        ]
        width = 264
        left, top = canvas_bounds.right - LEGEND_MARGIN - width, canvas_bounds.top + LEGEND_MARGIN
        with drawing_context.saver():
            drawing_context.begin_path()
            drawing_context.round_rect(left, top, width, 2 * LEGEND_ROW + 10, 6)
            drawing_context.fill_style = "rgba(0, 0, 0, 0.60)"
            drawing_context.fill()
            drawing_context.font = LEGEND_FONT
            drawing_context.text_baseline = "middle"
            drawing_context.line_width = 2.0
            for number, (color, text) in enumerate(rows):
                y = top + 5 + LEGEND_ROW * (number + 0.5)
                drawing_context.stroke_style = color
                _arrow(drawing_context, left + 8, y, left + 24, y)
                drawing_context.fill_style = "white"
                drawing_context.fill_text(text, left + 32, y)


