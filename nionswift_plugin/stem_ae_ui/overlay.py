"""Rings on the atoms, spots to point out, and the legend of the classes."""

from __future__ import annotations

import dataclasses
import math
import typing

import numpy as np
from nion.swift import ImageCanvasItem
from nion.ui import DrawingContext
from nion.utils import Geometry
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D

from .canvas import LEGEND_MARGIN, Attached, MarksCanvasItem, Screen, circle, legend, ring_key

MIN_RADIUS = 2.5  # points on the screen
LINE_WIDTH = 1.6
RING_SHARE = 0.3  # of the distance to the next column, where the sampling is not known
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
        """Return the marks of some atoms; ``radius`` is that of a ring in Å, if it is known how large a pixel is."""
        return cls(
            atoms.positions_px,
            atoms.labels,
            atoms.species,
            tuple(atoms.counts().values()),
            tuple(colors[name] for name in atoms.species),
            tuple(name not in hidden for name in atoms.species),
            atoms.shape,
            _ring_px(atoms) if atoms.sampling is None else radius / math.sqrt(atoms.step[0] * atoms.step[1]),
            rings,
            legend,
            drawn,
            spots,
            (1 / atoms.step[0], 1 / atoms.step[1]),
        )


def _ring_px(atoms: Atoms2D) -> float:
    """Return the radius of rings that do not touch, in pixels."""
    if len(atoms) < 2:
        return MIN_RADIUS
    distances = cKDTree(atoms.positions_px).query(atoms.positions_px, k=2)[0][:, 1]
    return RING_SHARE * float(np.median(distances))


# --- canvas items ---------------------------------------------------------------------------------------------------


class RingsCanvasItem(MarksCanvasItem[Marks]):
    """Rings around atoms. Belongs into the part of the display that zooms with the image."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: Marks) -> None:
        """Draw rings and spots."""
        if screen := Screen.of(marks.shape, bounds):
            if marks.rings:
                radius = max(MIN_RADIUS, marks.radius_px * screen.scale)
                draw_rings(context, marks, screen.points(marks.positions_px), radius)
            if marks.spots:
                draw_spots(context, marks, screen)
        if marks.drawn:
            marks.drawn()


class LegendCanvasItem(MarksCanvasItem[Marks]):
    """Classes and counts in the corner of the display."""

    @staticmethod
    def draw(context: DrawingContext.DrawingContext, bounds: Geometry.IntRect, marks: Marks) -> None:
        """Draw the legend, if it is wanted."""
        if not marks.legend:
            return
        width = 56 + 9 * (max(len(name) for name in marks.names) + len(f"{max(marks.counts):,}"))
        rows = [
            (ring_key(color), name, f"{count:,}")
            for name, count, color in zip(marks.names, marks.counts, marks.colors, strict=True)
        ]
        legend(context, bounds.left + LEGEND_MARGIN, bounds.top + LEGEND_MARGIN, width, rows)


def rings_and_legend(display: ImageCanvasItem.ImageCanvasItem) -> Attached:
    """Put rings and legend on a display."""
    return Attached(display, RingsCanvasItem(), LegendCanvasItem())


def draw_rings(
    context: DrawingContext.DrawingContext, marks: Marks, centres: NDArray[np.float64], radius: float
) -> None:
    """Draw the rings, centres (N, 2) and radius in points of the screen.

    Each ring is a path of its own: Qt takes five times as long for one path of them all.
    """
    context.line_width = LINE_WIDTH
    for label, color in enumerate(marks.colors):
        if not marks.visible[label]:
            continue
        context.stroke_style = color
        for x, y in centres[marks.labels == label].tolist():
            circle(context, x, y, radius)
            context.stroke()


def draw_spots(context: DrawingContext.DrawingContext, marks: Marks, screen: Screen) -> None:
    """Draw dashed circles with names around the spots."""
    context.font = SPOT_FONT
    context.text_align = "left"
    context.text_baseline = "middle"
    per_angstrom = np.array(marks.px_per_angstrom[::-1])
    for spot in marks.spots:
        x, y = screen.points(np.array(spot.position) * per_angstrom).tolist()
        radius = max(MIN_SPOT_RADIUS, 1.3 * spot.radius * float(per_angstrom[0] * screen.per_pixel[0]))
        context.stroke_style = context.fill_style = CHOSEN_SPOT if spot.chosen else SPOT
        context.line_width = 3.0 if spot.chosen else 1.5
        context.line_dash = 0 if spot.chosen else 5
        circle(context, x, y, radius)
        context.stroke()
        context.fill_text(spot.name, x + radius + 4, y)
