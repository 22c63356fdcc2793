"""Checks for impossible structures: atoms without a position, at one place, or of no element."""

from __future__ import annotations

import ase
import ase.data
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

COINCIDENT = 0.4
"""Å: atoms are never closer."""
_FLAT = 1e-4
"""Of the least singular value of a cell's directions: below it they count as lying in one plane."""
_THINNEST = 0.5
"""Å between the faces of a periodic cell; the atoms of a flatter one overlap their own images."""
_FARTHEST = 1e6
"""Å: no structure is larger than a tenth of a millimetre."""


def refuse_nowhere(atoms: ase.Atoms, name: str = "The structure") -> None:
    """Raise StemAeError if a position or the cell is not finite, or larger than any structure.

    Parameters
    ----------
    atoms : ase.Atoms
        The structure.
    name : str
        What to call it.
    """
    if not np.all(np.abs(atoms.cell.array) < _FARTHEST):
        raise StemAeError(f"{name} has a cell that is not finite, or longer than {_FARTHEST:g} Å.")
    wrong = ~(np.abs(atoms.positions) < _FARTHEST).all(axis=1)
    if wrong.any():
        raise StemAeError(f"{name} has atoms without a position ({_named(atoms, wrong)}): remove or correct them.")


def refuse_impossible(atoms: ase.Atoms, name: str = "The structure") -> None:
    """Raise StemAeError if a structure has no atoms, numbers that are not finite, dummies, or atoms in one place.

    Parameters
    ----------
    atoms : ase.Atoms
        Atoms that share a site by their occupancies may be in one place.
    name : str
        What to call it.
    """
    if len(atoms) == 0:
        raise StemAeError(f"{name} holds no atoms.")
    refuse_nowhere(atoms, name)
    dummies = (atoms.numbers < 1) | (atoms.numbers >= len(ase.data.chemical_symbols))
    if dummies.any():
        raise StemAeError(f"{name} has atoms that are no element ({_named(atoms, dummies)}): remove or correct them.")
    vectors = atoms.cell.array[atoms.cell.lengths() > 0]
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if len(vectors) > 1 and np.linalg.svd(directions, compute_uv=False).min() < _FLAT:
        raise StemAeError(f"{name} has a cell that is flat: its vectors lie in one plane, or on one line.")
    if atoms.pbc.any() and abs(atoms.cell.volume) > 0:
        heights = abs(atoms.cell.volume) / np.linalg.norm(np.cross(*_other_vectors(atoms.cell.array)), axis=1)
        if np.any(heights[atoms.pbc] < _THINNEST):
            raise StemAeError(f"{name} has a cell that is only {heights[atoms.pbc].min():.3g} Å thick: is its unit Å?")
    _refuse_coincident(atoms, name)


def _other_vectors(cell: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return for each vector of a cell the two others, ``(3, 3)`` each."""
    return cell[[1, 2, 0]], cell[[2, 0, 1]]


def _refuse_coincident(atoms: ase.Atoms, name: str) -> None:
    first, second, distance = _close_pairs(atoms, COINCIDENT)
    certain = np.ones(len(atoms), bool)
    if atoms.info.get("occupancy") or atoms.has("occupancies") or atoms.has("occupancy"):
        certain = np.zeros(len(atoms), bool)  # atoms that exclude one another are handled when they are drawn
    both = certain[first] & certain[second]
    if both.any():
        i, j, d = int(first[both][0]), int(second[both][0]), distance[both][0]
        more = int(both.sum()) - 1
        raise StemAeError(
            f"{name} has atoms in one place: {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}), counted from 0, "
            f"are {d:.2f} Å apart" + (f", and {more} more pairs." if more > 0 else ".")
        )


def _close_pairs(atoms: ase.Atoms, reach: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the pairs of atoms closer than ``reach``, each once, and their distances, over periodic borders too.

    ASE's list of neighbours takes memory and minutes for atoms that are spread far and wide, or crowd in one place.
    """
    cell = atoms.cell.complete()
    fractional, index = cell.scaled_positions(atoms.positions), np.arange(len(atoms))
    heights = abs(cell.volume) / np.linalg.norm(np.cross(*_other_vectors(cell.array)), axis=1)
    for axis in np.flatnonzero(atoms.pbc & (atoms.cell.lengths() > 0)):
        fractional[:, axis] %= 1.0
        near = fractional[:, axis] * heights[axis] <= reach  # their images lie beyond the opposite face
        fractional = np.concatenate([fractional, fractional[near] + np.eye(3)[axis]])
        index = np.concatenate([index, index[near]])
    places = fractional @ cell.array
    pairs = cKDTree(places).query_pairs(reach, output_type="ndarray")
    distance = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    first, second = np.sort(index[pairs], axis=1).T
    _, once = np.unique(first * len(atoms) + second, return_index=True)
    return first[once], second[once], distance[once]


def _named(atoms: ase.Atoms, which: NDArray[np.bool_]) -> str:
    numbers = np.flatnonzero(which)
    known = ase.data.chemical_symbols
    kinds = [(k, int(atoms.numbers[k])) for k in numbers[:6]]
    words = ", ".join(f"{k} {known[z] if 0 <= z < len(known) else f'number {z}'}" for k, z in kinds)
    return f"counted from 0: {words}" + (f" and {len(numbers) - 6} more" if len(numbers) > 6 else "")
