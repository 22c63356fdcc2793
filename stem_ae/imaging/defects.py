"""Graphene that is not perfect: a grain boundary, and a hole with its edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.spatial import Delaunay, cKDTree

from stem_ae.imaging.specimens import GRAPHENE_LATTICE, Specimen, graphene, lattice_points

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BOND = GRAPHENE_LATTICE / np.sqrt(3)  # Å

_RELAXED_WIDTH = 12.0  # Å to either side of the boundary
_ANGLE_STIFFNESS = 0.2  # of second neighbours, relative to bonds: enough to open five- and seven-membered rings evenly


def grain_boundary(
    extent: tuple[float, float] = (80.0, 80.0), misorientation: float = 22.0, silicon: float = 0.005, seed: int = 0
) -> Specimen:
    """Return two graphene grains that meet in rings of five and seven along a wavy line down the middle.

    The rings' centres of the two grains are laid out, those that crowd at the boundary are left out, and an atom is
    put into each triangle of neighbouring centres: every atom then has three bonds, and rings of five and seven appear
    where they must. Springs on first and second neighbours relax it.

    Parameters
    ----------
    extent : (float, float)
        x and y in Å.
    misorientation : float
        Angle between the grains in degrees.
    silicon : float
        Fraction of the sites that Si takes.
    seed : int
        Of the line's waves and the silicon.
    """
    rng = np.random.default_rng(seed)
    margin = 3 * GRAPHENE_LATTICE  # laid out around the extent, so that the sheet's edge is cut through whole rings
    wide = (extent[0] + 2 * margin, extent[1] + 2 * margin)
    a = GRAPHENE_LATTICE
    vectors = np.array([[a, 0.0], [a / 2, a * np.sqrt(3) / 2]])
    grains = [
        lattice_points(vectors, np.zeros((1, 3)), wide, sign * misorientation / 2)[0][:, :2] for sign in (1, -1)
    ]
    phase = rng.uniform(0, 2 * np.pi)

    def line(y: FloatArray) -> FloatArray:
        return wide[0] / 2 + 2.5 * np.sin(2 * np.pi * y / 55.0 + phase)

    left = grains[0][grains[0][:, 0] < line(grains[0][:, 1])]
    right = grains[1][grains[1][:, 0] >= line(grains[1][:, 1])]
    crowded = cKDTree(left).query(right)[0] < 0.6 * a
    centres = np.vstack([left, right[~crowded]])
    triangles = Delaunay(centres)
    atoms = centres[triangles.simplices].mean(axis=1)
    here, side = np.nonzero(triangles.neighbors >= 0)
    bonds = np.column_stack([here, triangles.neighbors[here, side]])
    near = np.abs(atoms[:, 0] - line(atoms[:, 1])) < _RELAXED_WIDTH
    atoms = _relaxed(atoms, bonds[bonds[:, 0] < bonds[:, 1]], near) - margin
    atoms = atoms[np.all((atoms >= 0) & (atoms <= np.asarray(extent)), axis=1)]
    numbers = np.where(rng.random(len(atoms)) < silicon, 14, 6).astype(np.int64)
    positions = np.column_stack([atoms, np.zeros(len(atoms))])
    return Specimen(positions, numbers, "graphene with a grain boundary", (), extent)


def _relaxed(xy: FloatArray, bonds: IntArray, free: BoolArray) -> FloatArray:
    """Return positions of least strain, first neighbours ``(B, 2)`` at a bond's length and second at the lattice's.

    Only the ``free`` atoms move.
    """
    bonds = bonds[free[bonds].any(axis=1)]
    second = _second_neighbours(len(xy), bonds)
    pairs = np.vstack([bonds, second])
    length = np.repeat([BOND, GRAPHENE_LATTICE], [len(bonds), len(second)])
    stiffness = np.repeat([1.0, _ANGLE_STIFFNESS], [len(bonds), len(second)])
    at = xy.copy()

    def energy(flat: FloatArray) -> tuple[float, FloatArray]:
        at[free] = flat.reshape(-1, 2)
        apart = at[pairs[:, 0]] - at[pairs[:, 1]]
        distance = np.linalg.norm(apart, axis=1)
        strain = distance - length
        pull = (2 * stiffness * strain / distance)[:, None] * apart
        gradient = [
            np.bincount(pairs[:, 0], pull[:, axis], len(at)) - np.bincount(pairs[:, 1], pull[:, axis], len(at))
            for axis in (0, 1)
        ]
        return float(stiffness @ strain**2), np.stack(gradient, axis=1)[free].ravel()

    at[free] = optimize.minimize(energy, xy[free].ravel(), jac=True, method="L-BFGS-B").x.reshape(-1, 2)
    return at


def _second_neighbours(count: int, bonds: IntArray) -> IntArray:
    """Return the pairs of atoms that share a neighbour."""
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    pairs = {(min(i, j), max(i, j)) for ring in neighbours for i in ring for j in ring if i != j}
    return np.array(sorted(pairs), dtype=np.int64)


def hole(
    extent: tuple[float, float] = (80.0, 80.0), radius: float = 16.0, silicon: float = 0.01, seed: int = 0
) -> Specimen:
    """Return graphene with a ragged hole in its middle; no atom at the edge hangs on by one bond only.

    Parameters
    ----------
    extent : (float, float)
        x and y in Å.
    radius : float
        Mean radius of the hole in Å.
    silicon : float
        Fraction of the sites that Si takes.
    seed : int
        Of the hole's outline and the silicon.
    """
    sheet = graphene(extent, silicon=silicon, seed=seed)
    rng = np.random.default_rng(seed)
    x, y = (sheet.positions[:, :2] - np.asarray(extent) / 2).T
    angle = np.arctan2(y, x)
    outline = np.full(len(sheet), radius)
    for wave in range(2, 7):
        outline += radius * 0.12 * rng.normal() / np.sqrt(wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    sheet = sheet[np.hypot(x, y) > outline]
    while True:
        near = np.linalg.norm(sheet.positions[:, :2] - np.asarray(extent) / 2, axis=1) < 2 * radius
        bonds = cKDTree(sheet.positions).query_ball_point(sheet.positions, 1.2 * BOND, return_length=True) - 1
        dangling = near & (bonds < 2)
        if not dangling.any():
            return Specimen(sheet.positions, sheet.numbers, "graphene with a hole", (), extent)
        sheet = sheet[~dangling]
