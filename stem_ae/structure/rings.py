"""Bonds, angles and rings of a sheet, and the defects they show."""

from __future__ import annotations

import collections
import dataclasses

import ase
import numpy as np
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from stem_ae.structure.bonding import bonded
from stem_ae.structure.possible import refuse_nowhere

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_LARGEST = 14
"""Larger faces are holes or the outside."""

_ABREAST = 0.6
_ABOVE = 1.0
"""Å. Atoms that are no farther apart than the one along x and y, and farther than the other along z, are one column."""

_ENOUGH = 5
"""Atoms that a sheet's plane can be told from."""

_HOST = 0.25
"""An element that is at least this part of a sheet belongs to it: a rarer one is a dopant."""


@dataclasses.dataclass(frozen=True)
class Ring:
    """One ring: its atoms in order, the mean length of its bonds in Å, and the mean angle in degrees."""

    atoms: tuple[int, ...]
    bond: float
    angle: float

    def __len__(self) -> int:
        return len(self.atoms)


def bond_lengths(atoms: ase.Atoms) -> dict[str, FloatArray]:
    """Return the lengths of all bonds in Å by their elements, such as ``{"C-C": ..., "C-H": ...}``."""
    first, second, vectors = bonded(atoms)
    distance = np.linalg.norm(vectors, axis=1)
    once = first < second
    symbols = atoms.get_chemical_symbols()
    names = ["-".join(sorted((symbols[i], symbols[j]))) for i, j in zip(first[once], second[once], strict=True)]
    result: dict[str, FloatArray] = {}
    for name in sorted(set(names)):
        result[name] = distance[once][np.array(names) == name]
    return result


def rings(atoms: ase.Atoms) -> list[Ring]:
    """Return the rings of a sheet seen from above: the faces of its bond graph.

    For sheets whose bonds do not cross in projection: at every atom the bonds are sorted by direction, and turning
    always left walks round one face. Atoms above one another, such as the sulphur of MoS2, count as their first one;
    adsorbates do not count. Bonds across periodic borders are followed. Periodic sheets are normal to z; a patch may
    lie as it likes, since dynamics turns it.
    """
    first, second, vectors = _sheet_bonds(_laid_flat(atoms))
    order = np.lexsort([np.arctan2(vectors[:, 1], vectors[:, 0]), first])
    first, second, vectors = first[order], second[order], vectors[order]
    following = _next_edge(first, second, vectors)
    found: list[Ring] = []
    seen = np.zeros(len(first), bool)
    for start in range(len(first)):
        walk: list[int] = []
        edge = start
        while not seen[edge]:
            seen[edge] = True
            walk.append(edge)
            edge = int(following[edge])
        if 3 <= len(walk) <= _LARGEST and edge == start and _closes(vectors[walk]):
            found.append(_ring(first[walk], vectors[walk]))
    return found


def _laid_flat(atoms: ase.Atoms) -> ase.Atoms:
    """Return a patch turned so that its plane is normal to z; periodic sheets as they are."""
    refuse_nowhere(atoms)
    inside = in_sheet(atoms)
    if atoms.pbc.any() or inside.sum() < _ENOUGH:
        return atoms
    points = atoms.positions[inside]
    normal = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][2]
    flat: ase.Atoms = atoms.copy()
    flat.rotate(normal if normal[2] > 0 else -normal, "z")
    return flat


def _sheet_bonds(atoms: ase.Atoms) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the bonds between the columns of a sheet from both their ends: each column is named by its first atom."""
    first, second, vectors = bonded(atoms)
    inside = in_sheet(atoms)
    kept = inside[first] & inside[second]
    first, second, vectors = first[kept], second[kept], vectors[kept]
    column, aside = _columns(atoms)
    vectors = vectors + aside[second] - aside[first]
    first, second = column[first], column[second]
    _, once = np.unique(np.column_stack([first, second, np.round(10 * vectors[:, :2])]), axis=0, return_index=True)
    once = once[first[once] != second[once]]
    return first[once], second[once], vectors[once]


def in_sheet(atoms: ase.Atoms) -> BoolArray:
    """Return which atoms make up the sheet: neither hydrogen nor adsorbates."""
    inside: BoolArray = atoms.numbers > 1
    if atoms.has("adsorbate"):
        inside = inside & ~atoms.arrays["adsorbate"].astype(bool)
    return inside


def covered(atoms: ase.Atoms) -> BoolArray:
    """Return which atoms have another one of their column above them."""
    column, _ = _columns(atoms)
    highest = np.full(len(atoms), -np.inf)
    np.maximum.at(highest, column, atoms.positions[:, 2])
    result: BoolArray = atoms.positions[:, 2] < highest[column]
    return result


def _columns(atoms: ase.Atoms) -> tuple[IntArray, FloatArray]:
    """Return for each atom the first one of its column, and the way there in Å."""
    column, aside = np.arange(len(atoms)), np.zeros((len(atoms), 3))
    if len(atoms) == 0 or np.ptp(atoms.positions[:, 2]) < _ABOVE:
        return column, aside
    i, j, way = neighbor_list("ijD", atoms, 4.0)
    same = (np.hypot(way[:, 0], way[:, 1]) < _ABREAST) & (np.abs(way[:, 2]) > _ABOVE) & (j < i)
    # The highest of these j comes first, so that the lowest is what stays.
    order = np.argsort(-j[same], kind="stable")
    i, j, way = i[same][order], j[same][order], way[same][order]
    column[i], aside[i] = j, way
    return column, aside


def _next_edge(first: IntArray, second: IntArray, vectors: FloatArray) -> IntArray:
    """Return for each directed bond the one that follows it round the face on its left."""
    start = np.searchsorted(first, np.arange(first.max() + 2 if len(first) else 1))
    between: dict[tuple[int, int], list[int]] = {}
    for k, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        between.setdefault((i, j), []).append(k)
    result = np.zeros(len(first), np.int64)
    for k, (i, j, v) in enumerate(zip(first.tolist(), second.tolist(), vectors[:, :2], strict=True)):
        ways_back = between[j, i]
        back = ways_back[int(np.hypot(*(vectors[ways_back, :2] + v).T).argmin())]
        # The bond just clockwise of the way back keeps the face on the left.
        result[k] = back - 1 if back > start[j] else start[j + 1] - 1
    return result


def _closes(vectors: FloatArray) -> bool:
    """Say whether a walk returns to where it began, anticlockwise (the outside is walked clockwise)."""
    corners = np.cumsum(vectors, axis=0)
    area = 0.5 * np.sum(corners[:, 0] * np.roll(corners[:, 1], -1) - np.roll(corners[:, 0], -1) * corners[:, 1])
    return bool(np.linalg.norm(corners[-1]) < 1e-3 and area > 0)


def _ring(members: IntArray, vectors: FloatArray) -> Ring:
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors / lengths[:, None]
    angles = 180 - np.degrees(np.arccos(np.clip(np.sum(unit * np.roll(unit, 1, axis=0), axis=1), -1, 1)))
    return Ring(tuple(int(k) for k in members), float(lengths.mean()), float(angles.mean()))


def defects(atoms: ase.Atoms, found: list[Ring] | None = None) -> list[dict[str, object]]:
    """Return the defects of a hexagonal sheet, each with its kind, its atoms and its centre (Å).

    Kinds: ``Stone-Wales`` (5-7-7-5 about one bond), ``divacancy 5-8-5``, ``vacancy`` (a ring larger than 8), ``ring
    of n`` for other odd rings, ``dopant Si`` (a rare element), ``vacancy S`` (a column with fewer atoms than most), and
    ``adsorbate Cr``.
    """
    found = rings(atoms) if found is None else found
    odd = [ring for ring in found if len(ring) != 6]
    share = [
        [k for k, other in enumerate(odd) if other is not ring and set(ring.atoms) & set(other.atoms)] for ring in odd
    ]
    result: list[dict[str, object]] = []
    for group in _groups(share):
        sizes = tuple(sorted(len(odd[k]) for k in group))
        members = sorted(set().union(*(odd[k].atoms for k in group)))
        result.append({"kind": _KINDS.get(sizes) or _name(sizes), "atoms": members})
    inside = in_sheet(atoms)
    result += _dopants(atoms, inside) + _missing_in_columns(atoms, inside)
    added = np.flatnonzero(~inside & (atoms.numbers > 1))
    result += [{"kind": f"adsorbate {atoms.symbols[int(k)]}", "atoms": [int(k)]} for k in added]
    for defect in result:
        defect["centre"] = atoms.positions[defect["atoms"]].mean(axis=0).tolist()
    return result


def _dopants(atoms: ase.Atoms, inside: BoolArray) -> list[dict[str, object]]:
    counts = collections.Counter(atoms.numbers[inside].tolist())
    rare = [number for number, count in counts.items() if count < _HOST * inside.sum()]
    chosen = np.flatnonzero(inside & np.isin(atoms.numbers, rare))
    return [{"kind": f"dopant {atoms.symbols[int(k)]}", "atoms": [int(k)]} for k in chosen]


def _missing_in_columns(atoms: ase.Atoms, inside: BoolArray) -> list[dict[str, object]]:
    """Return the columns that hold fewer atoms than most columns of their element do."""
    column, height = np.unique(_columns(_laid_flat(atoms))[0][inside], return_counts=True)
    result: list[dict[str, object]] = []
    for number in np.unique(atoms.numbers[column]):
        same = atoms.numbers[column] == number
        usual = np.bincount(height[same]).argmax()
        for k in column[same & (height < usual)]:
            result.append({"kind": f"vacancy {atoms.symbols[int(k)]}", "atoms": [int(k)]})
    return result


_KINDS = {(5, 5, 7, 7): "Stone-Wales", (5, 5, 8): "divacancy 5-8-5", (5, 9): "vacancy, reconstructed"}


def _name(sizes: tuple[int, ...]) -> str:
    if len(sizes) == 1:
        return "vacancy" if sizes[0] > 8 else f"ring of {sizes[0]}"
    return "rings " + "-".join(str(size) for size in sizes)


def _groups(share: list[list[int]]) -> list[list[int]]:
    """Return the connected groups of a small graph."""
    left, result = set(range(len(share))), []
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            k = edge.pop()
            group.add(k)
            edge += [other for other in share[k] if other not in group]
        left -= group
        result.append(sorted(group))
    return result
