"""The box around the atoms: vacuum, a given cell, or a supercell that the lattice itself repeats by."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ase.cell import Cell
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, cKDTree

from stem_ae.errors import StemAeError
from stem_ae.structure.lattice import REACH, typical_distance
from stem_ae.structure.overlaps import overlapping

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_SHIFTS = 4
"""Origins tried per lattice vector, so that the cell's border does not run through atoms."""


@dataclasses.dataclass(frozen=True, eq=False)
class Supercell:
    """A piece of the image that repeats: ``vectors (2, 2)`` as rows in Å, its ``origin``, the columns it holds."""

    vectors: FloatArray
    origin: FloatArray
    members: BoolArray
    repeats: tuple[int, int]


def given_cell(cell: Any) -> FloatArray:
    """Return a cell as three row vectors in Å.

    Parameters
    ----------
    cell : 3 numbers, 6 numbers or (3, 3) array
        Lengths; lengths and angles in degrees; or the vectors.

    Raises
    ------
    StemAeError
        If it is none of them, or its volume is not positive.
    """
    try:
        vectors: FloatArray = np.asarray(Cell.new(cell).array, np.float64)
    except (ValueError, TypeError, AssertionError) as error:
        raise StemAeError(
            "The cell is not understood: give 3 lengths, 3 lengths and 3 angles, or 3 vectors."
        ) from error
    volume = float(np.linalg.det(vectors))
    if not np.isfinite(volume) or volume <= 0 or np.any(np.atleast_1d(np.asarray(cell, float)).ravel()[:3] < 0):
        raise StemAeError(
            f"The cell's volume is {volume:.3g} Å³: give positive lengths, and vectors in right-handed order."
        )
    return vectors


def lattice_vectors(xy: FloatArray, names: list[str]) -> FloatArray:
    """Return the two shortest vectors (rows, Å) that carry most columns onto one of the same class.

    Raises
    ------
    StemAeError
        If no two are found: no lattice, or too small a region.
    """
    d = typical_distance(xy)
    tolerance = 0.25 * d
    labels = np.unique(names, return_inverse=True)[1]
    tree = cKDTree(xy)
    middle = tree.query(xy.mean(axis=0), k=min(12, len(xy)))[1]
    candidates = np.concatenate([xy[tree.query_ball_point(xy[k], 3.2 * d)] - xy[k] for k in np.atleast_1d(middle)])
    candidates = candidates[np.linalg.norm(candidates, axis=1) > tolerance]
    candidates = candidates[np.argsort(np.linalg.norm(candidates, axis=1))]
    low, high = xy.min(axis=0), xy.max(axis=0)
    found: list[FloatArray] = []
    for vector in candidates:
        landed = xy + vector
        inside = np.all((landed > low) & (landed < high), axis=1)
        if inside.sum() < 6 or any(np.linalg.norm(vector - f) < tolerance for f in found):
            continue
        distance, partner = tree.query(landed[inside])
        good = (distance < tolerance) & (labels[partner] == labels[inside])
        if good.mean() < 0.8:
            continue
        exact = np.median((xy[partner] - xy[inside])[good], axis=0)
        if not found:
            found.append(exact)
        elif abs(np.linalg.det([found[0], exact])) > 0.5 * np.linalg.norm(found[0]) * np.linalg.norm(exact):
            found.append(exact)
            break
    if len(found) < 2:
        raise StemAeError(
            "No repeating lattice was found in this region: choose a larger or less defective one, or cell='patch'."
        )
    vectors = np.array(found)
    return vectors if np.linalg.det(vectors) > 0 else vectors[::-1]


def commensurate(xy: FloatArray, names: list[str], elements: list[str], closest: float) -> Supercell:
    """Return the largest supercell of the region's own lattice whose border fits together.

    It fits when, repeated, no atoms overlap across the border and every column near it has as many neighbours as the
    lattice's columns usually have; defects must lie inside. ``closest`` is the largest distance (Å) that columns are
    ever required to keep.

    Raises
    ------
    StemAeError
        If there is none.
    """
    vectors = lattice_vectors(xy, names)
    cutoff = REACH * typical_distance(xy)
    usual = int(np.bincount([len(k) - 1 for k in cKDTree(xy).query_ball_point(xy, cutoff)]).argmax())
    fractional = xy @ np.linalg.inv(vectors)
    most = np.floor(np.ptp(fractional, axis=0) + 0.5).astype(int)
    sizes = sorted(((n1 * n2, n1, n2) for n1 in range(1, most[0] + 1) for n2 in range(1, most[1] + 1)), reverse=True)
    slack = 0.5 * cutoff / np.linalg.norm(vectors, axis=1).max()
    for _, n1, n2 in sizes:
        span = np.array([n1, n2])
        for start in _origins(fractional, span, slack=slack):
            members = np.all((fractional >= start) & (fractional < start + span), axis=1)
            cell = vectors * span[:, None]
            inside = [element for element, held in zip(elements, members, strict=True) if held]
            if _closes(xy[members], inside, cell, cutoff, usual, closest):
                return Supercell(cell, start @ vectors, members, (n1, n2))
    raise StemAeError(
        "No supercell of this region closes on itself, because defects lie on every possible border: choose a larger "
        "region or cell='patch'."
    )


def _origins(fractional: FloatArray, span: IntArray, slack: float) -> FloatArray:
    """Return the places for the cell's first corner, ``(K, 2)``, that keep it within the columns' convex hull."""
    low, high = fractional.min(axis=0) - slack, fractional.max(axis=0) + slack
    grid = [np.arange(low[k], max(high[k] - span[k], low[k]) + 1e-9, 1 / _SHIFTS) for k in (0, 1)]
    starts = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, 2)
    corners = starts[:, None, :] + np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * span
    sides = ConvexHull(fractional).equations
    within = corners @ sides[:, :2].T + sides[:, 2] <= slack
    result: FloatArray = starts[within.all(axis=(1, 2))]
    return result


def _closes(
    xy: FloatArray, elements: list[str], cell: FloatArray, cutoff: float, usual: int, closest: float
) -> bool:
    """Say whether the cell, surrounded by its images, has neither overlaps nor gaps along its border."""
    if len(xy) == 0:
        return False
    images = np.concatenate([xy + a * cell[0] + b * cell[1] for a in (0, -1, 1) for b in (0, -1, 1)])
    fractional = xy @ np.linalg.inv(cell)
    fractional -= fractional.min(axis=0)
    lengths = np.linalg.norm(cell, axis=1)
    rim = np.any(np.minimum(fractional, 1 - fractional) * lengths < cutoff, axis=1)
    neighbours = cKDTree(images).query_ball_point(xy[rim], cutoff, return_length=True) - 1
    if np.any(neighbours != usual):
        return False
    return not any(i < len(xy) for i, _ in overlapping(images, elements * 9, closest))
