"""Oxide films in plan view, seen along [001]: NiO pillars in LSMO, and a ferroelectric with domain walls."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stem_ae.imaging.specimens import Specimen, lattice_points

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LSMO_LATTICE = 3.87  # Å, pseudocubic La0.7Sr0.3MnO3
NIO_LATTICE = 4.177  # Å
BISMUTH_FERRITE_LATTICE = 3.96  # Å, pseudocubic BiFeO3

_LANTHANUM, _STRONTIUM, _MANGANESE, _NICKEL, _OXYGEN, _BISMUTH, _IRON = 57, 38, 25, 28, 8, 83, 26


def nio_lsmo(
    extent: tuple[float, float] = (160.0, 160.0), pillars: int = 4, size: float = 34.0, layers: int = 4, seed: int = 0
) -> Specimen:
    """Return pillars of NiO in a film of La0.7Sr0.3MnO3, both along [001].

    Parameters
    ----------
    extent : (float, float)
        x and y in Å.
    pillars : int
        How many.
    size : float
        Mean edge of a pillar's square with rounded corners, in Å.
    layers : int
        Thickness in unit cells.
    seed : int
        Of the pillars' places and sizes, and of Sr among La.
    """
    rng = np.random.default_rng(seed)
    places = _apart(pillars, extent, 1.4 * size, rng)
    sizes = size * rng.uniform(0.75, 1.2, len(places))

    matrix, numbers = _perovskite(LSMO_LATTICE, (_LANTHANUM, _MANGANESE), extent, layers)
    numbers[(numbers == _LANTHANUM) & (rng.random(len(numbers)) < 0.3)] = _STRONTIUM
    outside = ~_in_pillar(matrix[:, :2], places, sizes)
    matrix, numbers = matrix[outside], numbers[outside]

    half = NIO_LATTICE / 2
    pillar, _ = lattice_points(np.eye(2) * half, np.zeros((1, 3)), extent)
    site = np.rint((pillar[:, :2] - pillar[0, :2]) / half).astype(int).sum(axis=1)
    heights = np.arange(2 * layers)
    stack = np.repeat(pillar, len(heights), axis=0)
    stack[:, 2] = np.tile(heights * half, len(pillar))
    odd = (np.repeat(site, len(heights)) + np.tile(heights, len(pillar))) % 2
    inside = _in_pillar(stack[:, :2], places, sizes)
    stack, odd = stack[inside], odd[inside]
    crowded = cKDTree(matrix[:, :2]).query(stack[:, :2])[0] < 1.3  # Å: two columns in one place at the interface
    stack, odd = stack[~crowded], odd[~crowded]
    return Specimen(
        np.vstack([matrix, stack]),
        np.concatenate([numbers, np.where(odd == 1, _OXYGEN, _NICKEL)]).astype(np.int64),
        "NiO pillars in LSMO",
        (),
        extent,
    )


def _apart(count: int, extent: tuple[float, float], distance: float, rng: np.random.Generator) -> FloatArray:
    """Return up to ``count`` random places that keep a distance, the first one near the middle."""
    places = [np.asarray(extent) / 2 + rng.uniform(-8.0, 8.0, 2)]
    for _ in range(1000):
        place = rng.uniform(0.0, 1.0, 2) * extent
        if len(places) < count and min(np.linalg.norm(place - other) for other in places) > distance:
            places.append(place)
    return np.array(places)


def _in_pillar(xy: FloatArray, places: FloatArray, sizes: FloatArray) -> BoolArray:
    """Return which points are in a pillar: a superellipse of fourth order."""
    apart = (xy[:, None, :] - places) / (sizes[:, None] / 2)
    inside: BoolArray = np.any((apart**4).sum(axis=-1) < 1, axis=1)
    return inside


def domain_walls(
    extent: tuple[float, float] = (160.0, 160.0),
    displacement: float = 0.35,
    period: float = 55.0,
    width: float = 6.0,
    layers: int = 4,
    seed: int = 0,
) -> Specimen:
    """Return BiFeO3 along [001] whose Fe columns are off centre, in stripes of two directions with slightly wavy walls.

    The oxygen that shares a column with Fe moves with it, so that the column stays straight.

    Parameters
    ----------
    extent : (float, float)
        x and y in Å.
    displacement : float
        Length of the Fe's displacement in projection, in Å.
    period : float
        Width of a domain in Å.
    width : float
        Half width of a wall in Å.
    layers : int
        Thickness in unit cells.
    seed : int
        Of the walls' waves.
    """
    positions, numbers = _perovskite(BISMUTH_FERRITE_LATTICE, (_BISMUTH, _IRON), extent, layers)
    within_cell = positions[:, :2] / BISMUTH_FERRITE_LATTICE % 1
    centred = np.all(np.abs(within_cell - within_cell[numbers == _IRON][0]) < 0.1, axis=1)
    positions[centred, :2] += iron_displacement(positions[centred, :2], displacement, period, width, seed)
    return Specimen(positions, numbers, "ferroelectric domain walls in BiFeO3", (), extent)


def iron_displacement(
    xy: ArrayLike, displacement: float = 0.35, period: float = 55.0, width: float = 6.0, seed: int = 0
) -> FloatArray:
    """Return the displacement (x, y) in Å of Fe columns at points ``(..., 2)`` in Å; as for :func:`domain_walls`.

    Its x component is the same everywhere, its y component changes sign at the walls (which are therefore uncharged).
    """
    rng = np.random.default_rng(seed)
    x, y = np.moveaxis(np.asarray(xy, dtype=float), -1, 0)
    across = x + 3.0 * np.sin(2 * np.pi * y / 90.0 + rng.uniform(0, 2 * np.pi)) + rng.uniform(0, period)
    from_wall = (across + period / 2) % period - period / 2  # Å to the nearest wall, signed
    side = np.where(np.rint(across / period).astype(int) % 2 == 0, 1.0, -1.0)
    along_y = side * np.tanh(from_wall / width)
    result: FloatArray = displacement / np.sqrt(2) * np.stack([np.ones_like(along_y), along_y], axis=-1)
    return result


def _perovskite(
    lattice: float, metals: tuple[int, int], extent: tuple[float, float], layers: int
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return positions and atomic numbers of a film of A B O3, A on the corners."""
    half = lattice / 2
    cell = np.array([[0, 0, 0], [half, half, half], [half, half, 0], [half, 0, half], [0, half, half]])
    species = np.array([metals[0], metals[1], _OXYGEN, _OXYGEN, _OXYGEN], dtype=np.int64)
    basis = np.vstack([cell + np.array([0, 0, layer * lattice]) for layer in range(layers)])
    positions, kind = lattice_points(np.eye(2) * lattice, basis, extent)
    return positions, species[kind % len(cell)]
