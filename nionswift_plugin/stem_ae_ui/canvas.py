"""Drawing on the images: one canvas item for all that is drawn in one place, and attaching it to the displays.

A graphic per atom blocks Swift for seconds. Canvas items are drawn in a paint thread and are never saved. What they
draw are *marks*: a value that is never changed once made, so that the paint thread can read it freely.
"""

from __future__ import annotations

import abc
import collections.abc
import math
import typing
import weakref

import numpy as np
from nion.swift import DisplayPanel, DocumentController, ImageCanvasItem
from nion.swift.model import DataItem
from nion.ui import CanvasItem, DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

LEGEND_FONT = "13px sans-serif"
LEGEND_ROW = 20
LEGEND_MARGIN = 10

FloatArray = NDArray[np.float64]
Key = collections.abc.Callable[[DrawingContext.DrawingContext, float, float], None]
"""Draws the key of one row of a legend, around x and y."""


class HasShape(typing.Protocol):
    """Marks on an image of this shape."""

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels along (y, x)."""


M = typing.TypeVar("M")
S = typing.TypeVar("S", bound=HasShape)


# --- canvas items -----------------------------------------------------------------------------------------------------


class MarksCanvasItem(CanvasItem.AbstractCanvasItem, typing.Generic[M]):
    """A canvas item that draws marks; mouse events pass through it."""

    def __init__(self) -> None:
        super().__init__()
        self.__marks: M | None = None

    @property
    def marks(self) -> M | None:
        """What is drawn."""
        return self.__marks

    @marks.setter
    def marks(self, marks: M | None) -> None:
        if marks is not self.__marks:
            self.__marks = marks
            self.update()

    @staticmethod
    @abc.abstractmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: M) -> None:
        """Draw the marks; called in a paint thread."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _Composer(self, composer_cache, self.draw, self.marks)


class _Composer(CanvasItem.BaseComposer, typing.Generic[M]):
    def __init__(
        self,
        item: MarksCanvasItem[M],
        cache: CanvasItem.ComposerCache,
        draw: collections.abc.Callable[[DrawingContext.DrawingContext, Geometry.IntRect, M], None],
        marks: M | None,
    ) -> None:
        super().__init__(item, item.layout_sizing, cache)
        self.__draw = draw
        self.__marks = marks

    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        if self.__marks is not None:
            with drawing_context.saver():
                self.__draw(drawing_context, canvas_bounds, self.__marks)


class Screen:
    """Where the pixels of an image are on the screen."""

    def __init__(self, area: Geometry.FloatRect, shape: tuple[int, int]) -> None:
        self.__corner = np.array([area.left, area.top])
        self.per_pixel: FloatArray = np.array([area.width / shape[1], area.height / shape[0]])
        """Points of the screen along (x, y)."""

    @classmethod
    def of(cls, shape: tuple[int, int], bounds: Geometry.IntRect) -> Screen | None:
        """Return it for an image that fills these bounds, or None while it has no room."""
        mapping = ImageCanvasItem.ImageCanvasItemMapping.make(shape, bounds, [])
        return cls(mapping.canvas_rect, shape) if mapping else None

    @property
    def scale(self) -> float:
        """Points of the screen per pixel, for what is to stay round."""
        return float(self.per_pixel.mean())

    def points(self, pixels: FloatArray) -> FloatArray:
        """Return x and y on the screen of ``(N, 2)`` x and y in pixels; pixel centres are integers."""
        result: FloatArray = (pixels + 0.5) * self.per_pixel + self.__corner
        return result


# --- what several of them draw --------------------------------------------------------------------------------------


def circle(context: DrawingContext.DrawingContext, x: float, y: float, radius: float) -> None:
    """Make a circle the path: without the first step the arc would start with a line from the origin."""
    context.begin_path()
    context.move_to(x + radius, y)
    context.arc(x, y, radius, 0.0, 2.0 * math.pi)


def box(context: DrawingContext.DrawingContext, left: float, top: float, width: float, height: float) -> None:
    """Draw the dark ground of a legend, and be ready to write on it."""
    context.begin_path()
    context.round_rect(left, top, width, height, 6)
    context.fill_style = "rgba(0, 0, 0, 0.60)"
    context.fill()
    context.font = LEGEND_FONT
    context.text_baseline = "middle"
    context.text_align = "left"
    context.fill_style = "white"
    context.line_width = 2.0


def legend(
    context: DrawingContext.DrawingContext,
    left: float,
    top: float,
    width: float,
    rows: collections.abc.Sequence[tuple[Key, str, str]],
) -> None:
    """Draw a legend: a key, words and figures in each row."""
    box(context, left, top, width, LEGEND_ROW * len(rows) + 10)
    for row, (key, words, figures) in enumerate(rows):
        y = top + 5 + LEGEND_ROW * (row + 0.5)
        key(context, left + 15, y)
        context.fill_style = "white"
        context.text_align = "left"
        context.fill_text(words, left + 28, y)
        context.text_align = "right"
        context.fill_text(figures, left + width - 10, y)


def ring_key(color: str) -> Key:
    """Return a key that is a small ring."""

    def draw(context: DrawingContext.DrawingContext, x: float, y: float) -> None:
        circle(context, x, y, 5)
        context.stroke_style = color
        context.stroke()

    return draw


# --- attaching them to the displays -----------------------------------------------------------------------------------


class Attached:
    """Two canvas items on one display, each with a property ``marks``: one zooms with the image, one does not."""

    def __init__(self, display: ImageCanvasItem.ImageCanvasItem, zooming: typing.Any, standing: typing.Any) -> None:
        self.display = display
        self.__items = (zooming, standing)
        zoomed = typing.cast(CanvasItem.CanvasItemComposition, display.scroll_area_canvas_item.canvas_items[0])
        zoomed.add_canvas_item(zooming)
        display.add_canvas_item(standing)

    def set_marks(self, marks: typing.Any) -> None:
        """Show other marks."""
        for item in self.__items:
            item.marks = marks

    def close(self) -> None:
        """Take the items off the display."""
        for item in self.__items:
            if item.container:  # otherwise the display was closed, and closed them with it
                item.container.remove_canvas_item(item)


_OVERLAYS: weakref.WeakKeyDictionary[DocumentController.DocumentController, weakref.WeakSet[Overlays]] = (
    weakref.WeakKeyDictionary()
)
_HIDDEN: weakref.WeakSet[DocumentController.DocumentController] = weakref.WeakSet()


def toggle_overlays(window: DocumentController.DocumentController) -> None:
    """Hide the overlays of a window's images, or show them again; what an operator must see stays visible."""
    if window in _HIDDEN:
        _HIDDEN.remove(window)
    else:
        _HIDDEN.add(window)
    for overlays in list(_OVERLAYS.get(window, ())):
        overlays.refresh()


class Overlays:
    """Keeps rings and legend on every display of a window that shows an image with marks.

    Swift makes a new display whenever a panel shows another item, so they are attached again then. To be used in the
    user interface thread only.

    Parameters
    ----------
    window : DocumentController
        The window whose displays are meant.
    marks_for : callable
        Returns the marks of a data item, or ``None``.
    attach : callable
        Puts canvas items on a display and returns what holds them.
    must_show : callable, optional
        Returns whether the marks are drawn even while overlays are hidden, such as the targets of an armed beam.
    """

    def __init__(
        self,
        window: DocumentController.DocumentController,
        marks_for: typing.Callable[[DataItem.DataItem], typing.Any | None],
        attach: typing.Callable[[ImageCanvasItem.ImageCanvasItem], Attached],
        must_show: typing.Callable[[], bool] = lambda: False,
    ) -> None:
        self.__window = window
        self.__marks_for = marks_for
        self.__attach = attach
        self.__must_show = must_show
        self.__attached: dict[DisplayPanel.DisplayPanel, Attached] = {}
        self.__closed = False
        self.__listener: typing.Any = None
        _OVERLAYS.setdefault(window, weakref.WeakSet()).add(self)
        window.queue_task(self.refresh)  # the window is still being made, and has no displays yet

    def close(self) -> None:
        """Take everything off the displays."""
        self.__closed = True
        self.__listener = None
        for attached in self.__attached.values():
            attached.close()
        self.__attached.clear()

    def refresh(self) -> None:
        """Show the marks as they are now."""
        workspace = self.__window.workspace_controller
        if self.__closed or workspace is None:
            return
        self.__listener = self.__listener or workspace.display_panel_content_changed_event.listen(self.__refresh_panel)
        panels = workspace.display_panels
        for panel in [panel for panel in self.__attached if panel not in panels]:
            self.__attached.pop(panel).close()
        for panel in panels:
            self.__refresh_panel(panel)

    def __refresh_panel(self, panel: DisplayPanel.DisplayPanel) -> None:
        display, item = panel.display_canvas_item, panel.data_item
        is_shown = self.__window not in _HIDDEN or self.__must_show()
        marks = self.__marks_for(item) if item and is_shown else None
        attached = self.__attached.get(panel)
        if attached and (attached.display is not display or marks is None):
            self.__attached.pop(panel).close()
            attached = None
        if marks and isinstance(display, ImageCanvasItem.ImageCanvasItem):
            if attached is None:
                attached = self.__attached[panel] = self.__attach(display)
            attached.set_marks(marks)
