"""A picture of a structure seen along the beam: what will be calculated, before it is."""

from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stem_ae.errors import StemAeError
from stem_ae.structure.bonding import bonded
from stem_ae.structure.possible import refuse_nowhere

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Place = Callable[[FloatArray], FloatArray]
"""Turns x and y in Å, ``(N, 2)``, into pixels of the picture."""

BACKGROUND, BOND, CELL = "#15181c", "#8a929c", "#56B4E9"
HELD, UNSURE = "#FF4D6D", "#F0E442"
ENLARGED = 5.0
"""Position ellipses are drawn so many times larger than they are, or nobody would see them."""

_SMOOTH = 3
"""The picture is drawn so many times larger and shrunk, since lines have hard edges otherwise."""

_ATOM = 0.45
"""Radius of an atom in units of its covalent radius: small enough to leave the bonds visible."""

_LEGIBLE = 5.0
"""Pixels per Å below which the ellipses would only be dots."""

_CHI2_95 = 5.991
"""95 % of a two-dimensional normal distribution lie within this squared distance."""


def draw(structure: ase.Atoms, held: BoolArray, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw atoms, bonds, cell, what is held fixed and how sure the positions are.

    Parameters
    ----------
    structure : ase.Atoms
        As :func:`stem_ae.structure.build` makes it; x to the right, y up.
    held : (N,) array of bool
        Atoms that cannot move: crossed out.
    size : (int, int)
        Height and width of the picture in pixels.

    Returns
    -------
    (H, W, 3) array of uint8
        Red, green, blue. Ellipses hold 95 % of each atom's position errors, enlarged :data:`ENLARGED` times; they
        are left out where the picture is too small for them.
    """
    height, width = size[0] * _SMOOTH, size[1] * _SMOOTH
    picture = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    corners = _corners(structure)
    shown = np.vstack([structure.positions[:, :2], corners if structure.pbc.any() else np.empty((0, 2))])
    refuse_nowhere(structure)
    if not len(structure):
        raise StemAeError("There are no atoms to draw.")
    low, high = shown.min(axis=0) - 1.5, shown.max(axis=0) + 1.5
    scale = float(min(width / (high[0] - low[0]), height / (high[1] - low[1])))
    origin = np.array([width, height]) / 2 + scale * np.array([-1, 1]) * (low + high) / 2

    def place(xy: FloatArray) -> FloatArray:
        placed: FloatArray = origin + scale * xy * [1, -1]
        return placed

    if structure.pbc.any():
        pen.line([tuple(p) for p in place(np.vstack([corners, corners[:1]]))], fill=CELL, width=_SMOOTH)
    _bonds(pen, structure, place, max(int(0.18 * scale), _SMOOTH))
    _atoms(pen, structure, held, place(structure.positions[:, :2]), scale)
    if scale >= _LEGIBLE * _SMOOTH:
        _ellipses(pen, structure, place, scale)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BOX))


def _corners(structure: ase.Atoms) -> FloatArray:
    a, b = structure.cell.array[:2, :2]
    return np.array([[0.0, 0.0], a, a + b, b])


def _bonds(pen: ImageDraw.ImageDraw, structure: ase.Atoms, place: Place, width: int) -> None:
    first, _, vectors = bonded(structure)
    # Each end draws its half, so that bonds across a periodic border leave the cell on both sides.
    start = structure.positions[first, :2]
    ends = place(start + vectors[:, :2] / 2)
    for one, other in zip(place(start).tolist(), ends.tolist(), strict=True):
        pen.line([*one, *other], fill=BOND, width=width)


def _ellipses(pen: ImageDraw.ImageDraw, structure: ase.Atoms, place: Place, scale: float) -> None:
    if not structure.has("covariance"):
        return
    angle = np.linspace(0, 2 * np.pi, 24)
    circle = np.array([np.cos(angle), np.sin(angle)])
    for (xx, xy, yy), centre in zip(structure.arrays["covariance"], structure.positions[:, :2], strict=True):
        if xx * yy - xy**2 <= 0:
            continue
        root = np.linalg.cholesky([[xx, xy], [xy, yy]])
        outline = centre + ENLARGED * np.sqrt(_CHI2_95) * (root @ circle).T
        pen.line([tuple(p) for p in place(outline)], fill=UNSURE, width=max(int(0.06 * scale), _SMOOTH))


def _atoms(
    pen: ImageDraw.ImageDraw, structure: ase.Atoms, held: BoolArray, centres: FloatArray, scale: float
) -> None:
    colors = (255 * jmol_colors[structure.numbers]).astype(int)
    radii = _ATOM * scale * covalent_radii[structure.numbers]
    for k in np.argsort(structure.positions[:, 2], kind="stable"):  # the upper atom hides the lower one
        (x, y), r = centres[k], radii[k]
        pen.ellipse([x - r, y - r, x + r, y + r], fill=tuple(colors[k]), outline=BACKGROUND, width=1)
        if held[k]:
            d = 0.7 * r
            for sign in (1, -1):
                pen.line([x - d, y - sign * d, x + d, y + sign * d], fill=HELD, width=max(int(r / 3), _SMOOTH))
