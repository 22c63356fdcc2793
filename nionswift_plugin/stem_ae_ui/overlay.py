"""Rings and legend on the images: one canvas item each, whatever the number of atoms.

A graphic per atom blocks Swift for seconds. Canvas items are drawn in a paint thread and are never saved.
"""

from __future__ import annotations

import dataclasses
import math
import typing

import numpy as np
from nion.swift import DisplayPanel, DocumentController, ImageCanvasItem
from nion.swift.model import DataItem
from nion.ui import CanvasItem, DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D

MIN_RADIUS = 2.5  # points on the screen
LINE_WIDTH = 1.6
LEGEND_FONT = "13px sans-serif"
LEGEND_ROW = 20
LEGEND_MARGIN = 10
SPOT, CHOSEN_SPOT = "#FFFFFF", "#F0E442"
SPOT_FONT = "12px sans-serif"
MIN_SPOT_RADIUS = 8.0  # points on the screen


@dataclasses.dataclass(frozen=True)
class Spot:
    """A place to point out."""

    name: str
    position: tuple[float, float]
    """x, y in Å."""
    radius: float
    """Å."""
    chosen: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Marks:
    """What to draw on one image. Never changed once made, so that the paint thread can read it freely."""

    positions_px: NDArray[np.float64]
    """(N, 2), x and y in pixels; pixel centres are integers."""
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    counts: tuple[int, ...]
    colors: tuple[str, ...]
    visible: tuple[bool, ...]
    shape: tuple[int, int]
    radius_px: float
    rings: bool = True
    legend: bool = True
    drawn: typing.Callable[[], None] | None = None
    """Called in the paint thread after the rings were drawn."""
    spots: tuple[Spot, ...] = ()
    px_per_angstrom: tuple[float, float] = (1.0, 1.0)
    """Along (y, x)."""

    @classmethod
    def of(
        cls,
        atoms: Atoms2D,
        *,
        colors: typing.Mapping[str, str],
        hidden: typing.Container[str] = (),
        radius: float,
        rings: bool = True,
        legend: bool = True,
        drawn: typing.Callable[[], None] | None = None,
        spots: tuple[Spot, ...] = (),
    ) -> Marks:
        """Return the marks of some atoms; ``radius`` is that of a ring in Å."""
        return cls(
            atoms.positions_px,
            atoms.labels,
            atoms.species,
            tuple(atoms.counts().values()),
            tuple(colors[name] for name in atoms.species),
            tuple(name not in hidden for name in atoms.species),
            atoms.shape,
            radius / math.sqrt(atoms.sampling[0] * atoms.sampling[1]),
            rings,
            legend,
            drawn,
            spots,
            (1 / atoms.sampling[0], 1 / atoms.sampling[1]),
        )


# --- canvas items ---------------------------------------------------------------------------------------------------


class _MarksCanvasItem(CanvasItem.AbstractCanvasItem):
    """A canvas item that draws marks; mouse events pass through it."""

    def __init__(self) -> None:
        super().__init__()
        self.__marks: Marks | None = None

    @property
    def marks(self) -> Marks | None:
        """What is drawn."""
        return self.__marks

    @marks.setter
    def marks(self, marks: Marks | None) -> None:
        if marks is not self.__marks:
            self.__marks = marks
            self.update()


class RingsCanvasItem(_MarksCanvasItem):
    """Rings around atoms. Belongs into the part of the display that zooms with the image."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _RingsComposer(self, composer_cache, self.marks)


class LegendCanvasItem(_MarksCanvasItem):
    """Classes and counts in the corner of the display."""

    def _get_composer(self, composer_cache: CanvasItem.ComposerCache) -> CanvasItem.BaseComposer:
        return _LegendComposer(self, composer_cache, self.marks)


class _MarksComposer(CanvasItem.BaseComposer):
    def __init__(self, item: _MarksCanvasItem, cache: CanvasItem.ComposerCache, marks: Marks | None) -> None:
        super().__init__(item, item.layout_sizing, cache)
        self._marks = marks


class _RingsComposer(_MarksComposer):
    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        marks = self._marks
        if marks is None:
            return
        mapping = ImageCanvasItem.ImageCanvasItemMapping.make(marks.shape, canvas_bounds, [])
        if marks.rings and mapping:
            area = mapping.canvas_rect
            scale = np.array([area.width / marks.shape[1], area.height / marks.shape[0]])
            centres = (marks.positions_px + 0.5) * scale + [area.left, area.top]
            draw_rings(drawing_context, marks, centres, max(MIN_RADIUS, marks.radius_px * float(scale.mean())))
        if mapping and marks.spots:
            draw_spots(drawing_context, marks, mapping.canvas_rect)
        if marks.drawn:
            marks.drawn()


def draw_rings(
    drawing_context: DrawingContext.DrawingContext, marks: Marks, centres: NDArray[np.float64], radius: float
) -> None:
    """Draw the rings, centres (N, 2) and radius in points of the screen.

    Each ring is a path of its own: Qt takes five times as long for one path of them all.
    """
    with drawing_context.saver():
        drawing_context.line_width = LINE_WIDTH
        for label, color in enumerate(marks.colors):
            if not marks.visible[label]:
                continue
            drawing_context.stroke_style = color
            for x, y in centres[marks.labels == label].tolist():
                drawing_context.begin_path()
                drawing_context.move_to(x + radius, y)  # without it the arc starts with a line from the origin
                drawing_context.arc(x, y, radius, 0.0, 2.0 * math.pi)
                drawing_context.stroke()


def draw_spots(drawing_context: DrawingContext.DrawingContext, marks: Marks, area: Geometry.FloatRect) -> None:
    """Draw dashed circles with names around the spots, within the image's area on the screen."""
    scale_y, scale_x = area.height / marks.shape[0], area.width / marks.shape[1]
    with drawing_context.saver():
        drawing_context.font = SPOT_FONT
        drawing_context.text_align = "left"
        drawing_context.text_baseline = "middle"
        for spot in marks.spots:
            x = area.left + (spot.position[0] * marks.px_per_angstrom[1] + 0.5) * scale_x
            y = area.top + (spot.position[1] * marks.px_per_angstrom[0] + 0.5) * scale_y
            radius = max(MIN_SPOT_RADIUS, 1.3 * spot.radius * marks.px_per_angstrom[1] * scale_x)
            drawing_context.stroke_style = drawing_context.fill_style = CHOSEN_SPOT if spot.chosen else SPOT
            drawing_context.line_width = 3.0 if spot.chosen else 1.5
            drawing_context.line_dash = 0 if spot.chosen else 5
            drawing_context.begin_path()
            drawing_context.move_to(x + radius, y)
            drawing_context.arc(x, y, radius, 0.0, 2.0 * math.pi)
            drawing_context.stroke()
            drawing_context.fill_text(spot.name, x + radius + 4, y)


class _LegendComposer(_MarksComposer):
    def _repaint(
        self,
        drawing_context: DrawingContext.DrawingContext,
        canvas_bounds: Geometry.IntRect,
        composer_cache: CanvasItem.ComposerCache,
    ) -> None:
        marks = self._marks
        if marks is None or not marks.legend:
            return
        rows = list(zip(marks.names, marks.counts, marks.colors, strict=True))
        width = 56 + 9 * (max(len(name) for name in marks.names) + len(f"{max(marks.counts):,}"))
        left, top = canvas_bounds.left + LEGEND_MARGIN, canvas_bounds.top + LEGEND_MARGIN
        with drawing_context.saver():
            drawing_context.begin_path()
            drawing_context.round_rect(left, top, width, LEGEND_ROW * len(rows) + 10, 6)
            drawing_context.fill_style = "rgba(0, 0, 0, 0.60)"
            drawing_context.fill()
            drawing_context.font = LEGEND_FONT
            drawing_context.text_baseline = "middle"
            drawing_context.line_width = 2.0
            for row, (name, count, color) in enumerate(rows):
                y = top + 5 + LEGEND_ROW * (row + 0.5)
                drawing_context.begin_path()
                drawing_context.move_to(left + 20, y)
                drawing_context.arc(left + 15, y, 5, 0.0, 2.0 * math.pi)
                drawing_context.stroke_style = color
                drawing_context.stroke()
                drawing_context.fill_style = "white"
                drawing_context.text_align = "left"
                drawing_context.fill_text(name, left + 28, y)
                drawing_context.text_align = "right"
                drawing_context.fill_text(f"{count:,}", left + width - 10, y)


# --- attaching them to the displays ---------------------------------------------------------------------------------


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


def rings_and_legend(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put rings and legend on a display."""
    return Attached(display, RingsCanvasItem(), LegendCanvasItem())


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
        Puts canvas items on a display and returns what holds them: by default rings and legend.
    """

    def __init__(
        self,
        window: DocumentController.DocumentController,
        marks_for: typing.Callable[[DataItem.DataItem], typing.Any | None],
        attach: typing.Callable[[ImageCanvasItem.ImageCanvasItem], Attached] | None = None,
    ) -> None:
        self.__window = window
        self.__marks_for = marks_for
        self.__attach = attach or rings_and_legend
        self.__attached: dict[DisplayPanel.DisplayPanel, Attached] = {}
        self.__closed = False
        self.__listener: typing.Any = None
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
        marks = self.__marks_for(item) if item else None
        attached = self.__attached.get(panel)
        if attached and (attached.display is not display or marks is None):
            self.__attached.pop(panel).close()
            attached = None
        if marks and isinstance(display, ImageCanvasItem.ImageCanvasItem):
            if attached is None:
                attached = self.__attached[panel] = self.__attach(display)
            attached.set_marks(marks)
