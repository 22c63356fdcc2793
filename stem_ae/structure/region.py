"""Which atoms of an image take part: rectangles, polygons, discs, masks; random and most different patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_ae import checks
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.structure.lattice import REACH, bonds_2d, typical_distance

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def around(x: float, y: float, radius: float) -> FloatArray:
    """Return a disc about a point as a polygon, ``(64, 2)`` in Å of the image; for a defect, say.

    Raises
    ------
    StemAeError
        If the point or the radius is no finite number, or the radius not positive.
    """
    x, y = checks.place((x, y), "The middle of a disc")
    radius = checks.positive(radius, "The radius of a disc", unit="Å")
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])


def select(atoms: Atoms2D, region: Any) -> BoolArray:
    """Return which atoms lie in a region, ``(N,)``.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    region : None, 4 numbers, (k, 2) array or (N,) array of bool
        The whole image; a rectangle ``(x0, y0, x1, y1)`` in Å of the image; a polygon's corners in Å; or a mask.

    Raises
    ------
    StemAeError
        If it is none of these, or holds no atoms.
    """
    if region is None:
        inside = np.ones(len(atoms), bool)
    else:
        shape = np.asarray(region)
        if shape.dtype == bool and shape.shape == (len(atoms),):
            inside = shape
        elif shape.shape == (4,):
            x0, y0, x1, y1 = shape.astype(float)
            x, y = atoms.positions.T
            inside = (x >= min(x0, x1)) & (x <= max(x0, x1)) & (y >= min(y0, y1)) & (y <= max(y0, y1))
        elif shape.ndim == 2 and shape.shape[1] == 2 and len(shape) >= 3:
            inside = in_polygon(atoms.positions, shape.astype(float))
        else:
            raise StemAeError(
                "The region is not understood: give (x0, y0, x1, y1) in Å, the corners of a polygon, or a mask of the "
                "atoms."
            )
    if not inside.any():
        raise StemAeError("There are no atoms in this region: draw it over the atoms.")
    return inside


def in_polygon(points: FloatArray, corners: FloatArray) -> BoolArray:
    """Return which points lie in a polygon, ``(N,)``: by the even-odd rule, along a ray to the right."""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        spans = (y0 > points[:, 1]) != (y1 > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0)
        inside ^= spans & (points[:, 0] < crossing)
    return inside


def random_regions(atoms: Atoms2D, size: float, count: int, seed: int = 0) -> FloatArray:
    """Return ``count`` square patches of side ``size`` (Å) within the image, ``(count, 4)`` as ``(x0, y0, x1, y1)``.

    Each lies about an atom chosen at random, so that none is empty.

    Raises
    ------
    StemAeError
        If the image is smaller than the patch, or has no atoms.
    """
    extent = np.array([atoms.shape[1] * atoms.known_sampling[1], atoms.shape[0] * atoms.known_sampling[0]])
    count = checks.whole(count, "The number of patches", 1, 1_000_000)
    seed = checks.whole(seed, "The seed", 0, checks.MOST_SEED)
    if not size > 0 or np.any(extent < size):
        raise StemAeError(f"A patch of {size:g} Å does not fit into an image of {extent[0]:.1f} × {extent[1]:.1f} Å.")
    if not len(atoms):
        raise StemAeError("There are no atoms in this image to take patches of.")
    rng = np.random.default_rng(seed)
    centre = atoms.positions[rng.choice(len(atoms), count, replace=count > len(atoms))]
    corner = np.clip(centre - size / 2, 0, extent - size)
    return np.hstack([corner, corner + size])


def most_different(atoms: Atoms2D, regions: FloatArray | Sequence[Sequence[float]], count: int) -> list[int]:
    """Return the indices of ``count`` regions that resemble one another least, the oddest first.

    Farthest-point sampling on :func:`fingerprint`, each of its numbers scaled by its spread over the regions.
    """
    prints = np.array([fingerprint(atoms, region) for region in regions])
    spread = prints.std(axis=0)
    prints = (prints - prints.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    chosen = [int(np.argmax(np.sum(prints**2, axis=1)))]
    distance = np.linalg.norm(prints - prints[chosen[0]], axis=1)
    while len(chosen) < min(count, len(prints)):
        distance[chosen] = -1.0
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(prints - prints[chosen[-1]], axis=1))
    return chosen


def fingerprint(atoms: Atoms2D, region: Any) -> FloatArray:
    """Return what a patch is like, as numbers that no rotation or shift changes.

    Fraction of each class, fraction with 0 to 5 neighbours, mean and spread of bond lengths (Å) and of the angles
    between bonds (rad). Neighbours outside the patch count, and atoms at the image's border do not, whose neighbours
    are not seen: neither edge says what the patch is like.
    """
    inside = select(atoms, region)
    cutoff = REACH * typical_distance(atoms.positions)
    far = np.array([(atoms.shape[1] - 1) * atoms.known_sampling[1], (atoms.shape[0] - 1) * atoms.known_sampling[0]])
    whole = inside & (np.minimum(atoms.positions, far - atoms.positions).min(axis=1) > cutoff)
    inside = whole if whole.any() else inside
    classes = np.bincount(atoms.labels[inside], minlength=len(atoms.species)) / inside.sum()
    pairs = bonds_2d(atoms.positions, cutoff)
    degree = np.bincount(pairs.ravel(), minlength=len(atoms))[inside]
    degrees = np.bincount(np.minimum(degree, 5), minlength=6) / inside.sum()
    directed = np.concatenate([pairs, pairs[:, ::-1]])
    directed = directed[inside[directed[:, 0]]]
    if len(directed) == 0:
        return np.concatenate([classes, degrees, np.zeros(4)])
    vectors = atoms.positions[directed[:, 1]] - atoms.positions[directed[:, 0]]
    lengths = np.linalg.norm(vectors, axis=1)
    angles = _angles(directed[:, 0], vectors)
    bends = [angles.mean(), angles.std()] if len(angles) else [0.0, 0.0]
    return np.concatenate([classes, degrees, [lengths.mean(), lengths.std(), *bends]])


def _angles(centre: NDArray[np.int64], vectors: FloatArray) -> FloatArray:
    """Return the angles between neighbouring bonds about every atom, in rad."""
    direction = np.arctan2(vectors[:, 1], vectors[:, 0])
    order = np.lexsort([direction, centre])
    centre, direction = centre[order], direction[order]
    same = centre[1:] == centre[:-1]
    result: FloatArray = np.diff(direction)[same]
    return result
