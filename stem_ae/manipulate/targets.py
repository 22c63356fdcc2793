"""Which atoms, in which order, and what it will cost, before the beam is on.

Targets are indices into an :class:`~stem_ae.atoms.Atoms2D`, ``(K,)`` integers.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stem_ae import checks
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.files import read_text
from stem_ae.imageio.units import to_angstrom
from stem_ae.imaging.damage import BARN, fluence
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.imaging.probe import Probe
from stem_ae.structure.region import select

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_REACH = 10.0  # Å: how far the tails of the probe are followed
_UNREACHED = -(2**31)  # lattice coordinate of a point that no chain of neighbours leads to


def of_class(atoms: Atoms2D, species: str | Sequence[str], region: Any = None) -> IntArray:
    """Return all atoms of a class, or of several, in a region.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    species : str or sequence of str
        Names of classes, such as ``"S2"``.
    region : optional
        Rectangle, polygon or mask, as :func:`stem_ae.structure.region.select` takes it; None is the whole image.

    Raises
    ------
    StemAeError
        If there are none, or the class does not exist.
    """
    names = [species] if isinstance(species, str) else list(species)
    unknown = [name for name in names if name not in atoms.species]
    if unknown:
        raise StemAeError(f"There is no class {unknown[0]!r} here: choose from {', '.join(atoms.species)}.")
    wanted = np.isin(atoms.labels, [atoms.species.index(name) for name in names])
    found: IntArray = np.flatnonzero(wanted & select(atoms, region))
    return _some(found, f"There is no {' or '.join(names)} in this region: draw it larger or choose another class.")


def along_line(
    atoms: Atoms2D,
    candidates: ArrayLike,
    start: ArrayLike,
    end: ArrayLike,
    width: float = 1.0,
    every: int = 1,
    first: int = 0,
) -> IntArray:
    """Return the candidates next to a line, in order from its start: a row, or every n-th atom of it.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    candidates : (K,) array of int
        Which atoms may be chosen; see :func:`of_class`.
    start, end : (float, float)
        Ends of the line in Å, x and y.
    width : float
        Largest distance from the line in Å; it also reaches this far beyond the ends.
    every, first : int
        Take every n-th one, beginning with this one (0 is the first).
    """
    candidates = np.asarray(candidates, np.int64)
    start, along = np.asarray(start, float), np.subtract(end, start, dtype=float)
    length = float(np.linalg.norm(along))
    if length == 0:
        raise StemAeError("The line has no length: give two different points.")
    if every < 1 or first < 0:
        raise StemAeError(f"Every {every}-th atom from number {first} is not possible: count from 1 and 0 on.")
    away = atoms.positions[candidates] - start
    position = away @ along / length
    distance = np.abs(away[:, 0] * along[1] - away[:, 1] * along[0]) / length
    near = np.flatnonzero((distance <= width) & (position >= -width) & (position <= length + width))
    row: IntArray = candidates[near[np.argsort(position[near], kind="stable")]][first::every]
    return _some(row, f"No candidate lies within {width:g} Å of this line: move it, or allow a larger width.")


def lattice_pattern(
    atoms: Atoms2D, candidates: ArrayLike, origin: int, period: tuple[int, int], sublattice: ArrayLike | None = None
) -> IntArray:
    """Return the candidates on a superlattice: those at multiples of ``period`` lattice steps from one atom.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    candidates : (K,) array of int
        Which atoms may be chosen.
    origin : int
        The atom at which the pattern begins.
    period : (int, int)
        Lattice steps along the first direction (the one closest to x) and the second (60° or 90° from it).
    sublattice : (M,) array of int, optional
        Atoms that make up the lattice, such as S2 and S1 together; by default the candidates.
    """
    candidates = np.asarray(candidates, np.int64)
    members = np.union1d(candidates if sublattice is None else np.asarray(sublattice, np.int64), [origin])
    if min(period) < 1:
        raise StemAeError(f"A pattern of {period} steps is not possible: give two whole numbers from 1 on.")
    points = atoms.positions[members]
    index = lattice_indices(points, lattice_vectors(points), int(np.searchsorted(members, origin)))
    on_pattern = (index[:, 0] != _UNREACHED) & np.all(index % np.asarray(period) == 0, axis=1)
    chosen: IntArray = np.intersect1d(members[on_pattern], candidates)
    return _some(chosen, "No candidate lies on this pattern: begin it at another atom.")


def outside(atoms: Atoms2D, targets: ArrayLike, zones: Sequence[Any], margin: float = 0.0) -> IntArray:
    """Return the targets that lie in none of the forbidden zones, in the same order.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    targets : (K,) array of int
        Which atoms.
    zones : sequence
        Rectangles ``(x0, y0, x1, y1)`` or polygons in Å, or masks of the atoms.
    margin : float
        Distance in Å that targets must keep from every atom in a zone.
    """
    targets = np.asarray(targets, np.int64)
    forbidden = np.zeros(len(atoms), bool)
    for zone in zones:
        try:
            forbidden |= select(atoms, zone)
        except StemAeError as error:
            if "no atoms" not in str(error):
                raise
    if not forbidden.any():
        return targets
    distance, _ = cKDTree(atoms.positions[forbidden]).query(atoms.positions[targets])
    allowed: IntArray = targets[(distance > margin) & ~forbidden[targets]]
    return allowed


def read_positions(path: str | pathlib.Path) -> FloatArray:
    """Return the positions ``(K, 2)`` in Å that a CSV file lists.

    The columns are taken by their names, ``x`` and ``y``, with the unit if it is not Å: ``x_angstrom``, ``y (nm)``.
    In a file without names they are the first two.

    Raises
    ------
    StemAeError
        If there are none, or it is not clear which columns are meant.
    """
    path = pathlib.Path(path)
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.startswith(("#", '"#'))]
    mark = max(",;\t", key=lines[0].count) if lines else ","
    try:
        rows = list(csv.reader(lines, delimiter=mark))
    except csv.Error as error:
        raise StemAeError(f"{path.name} is no CSV file ({error}).") from error
    columns = [(0, 1.0), (1, 1.0)]
    named = bool(rows) and math.isnan(_number(rows[0][0], mark))
    if named:
        columns = [_named_column(rows[0], axis, path.name) for axis in "xy"]
    positions = []
    for number, row in enumerate(rows[named:], start=1 + named):
        cells = [_number(row[k], mark) if k < len(row) else math.nan for k, _ in columns]
        if not np.isfinite(cells).all() or (named and any(row[len(rows[0]) :])):
            raise StemAeError(f"Line {number} of {path.name} is no position: give x and y in Å.")
        positions.append([cell * unit for cell, (_, unit) in zip(cells, columns, strict=True)])
    if not positions:
        raise StemAeError(f"{path.name} lists no positions: give x and y in Å, one target per line.")
    return np.array(positions, dtype=float)


def _named_column(names: Sequence[str], axis: str, file: str) -> tuple[int, float]:
    """Return which column is x or y, and its unit in Å."""
    matches = [(k, re.fullmatch(rf"{axis}(?:[ _(\[/]+(.*?)[)\]]*)?", name.strip(), re.IGNORECASE))
               for k, name in enumerate(names)]  # fmt: skip
    units = {k: to_angstrom(1, match[1] or "Å") for k, match in matches if match}
    found = [(k, unit) for k, unit in units.items() if unit is not None]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(repr(name[:40]) for name in names[:8])
    what = "several columns" if found else "no column"
    raise StemAeError(f"{file} has {what} of {axis} with a length ({listed}): call them x_angstrom and y_angstrom.")


def _number(cell: str, mark: str) -> float:
    """Return a number, NaN for what is none; where ; parts cells, numbers may have commas."""
    try:
        return float(cell if mark == "," else cell.replace(",", "."))
    except ValueError:
        return math.nan


def shortest_path(positions: ArrayLike, start: ArrayLike = (0.0, 0.0)) -> IntArray:
    """Return the order in which to visit points, ``(K,)``: nearest neighbour from ``start``, then 2-opt.

    Deterministic. The dose that neighbours receive adds up to the same in every order, so that travel alone decides.

    Parameters
    ----------
    positions : (K, 2) array
        Å.
    start : (float, float)
        Where the beam comes from, in Å.
    """
    points = np.vstack([np.asarray(start, float), np.asarray(positions, float).reshape(-1, 2)])
    distance = np.linalg.norm(points[:, None] - points[None, :], axis=2)
    path, left = [0], set(range(1, len(points)))
    while left:
        path.append(min(left, key=lambda k: (distance[path[-1], k], k)))
        left.remove(path[-1])
    order: IntArray = _without_crossings(np.array(path), distance)[1:] - 1
    return order


def _without_crossings(path: IntArray, distance: FloatArray) -> IntArray:
    """Reverse pieces of an open path as long as that makes it shorter (2-opt); its first point stays."""
    improved = True
    while improved:
        improved = False
        for i in range(1, len(path) - 1):
            ends = path[i + 1 :]
            after = np.append(path[i + 2 :], -1)
            old = distance[path[i - 1], path[i]] + np.where(after >= 0, distance[ends, after], 0)
            new = distance[path[i - 1], ends] + np.where(after >= 0, distance[path[i], after], 0)
            best = int(np.argmax(old - new))
            if (old - new)[best] > 1e-9:
                path[i : i + best + 2] = path[i : i + best + 2][::-1].copy()
                improved = True
    return path


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Targets in order, and what visiting them is expected to cost.

    Parameters
    ----------
    targets : (K,) array of int
        Atoms in the order of exposure.
    travel : float
        Length of the way in Å.
    exposure_s : float
        Expected exposure of each target in seconds.
    time_s : float
        Expected duration of everything in seconds.
    success : float
        Chance that a target's atom leaves before the timeout.
    dose : (N,) array
        Expected electrons per Å² at every atom of the image when all is done, from all exposures together.
    collateral : float
        Expected number of atoms ejected that are no targets.
    """

    targets: IntArray
    travel: float
    exposure_s: float
    time_s: float
    success: float
    dose: FloatArray
    collateral: float

    @property
    def neighbour_dose(self) -> float:
        """Largest expected dose in e/Å² at an atom that is no target."""
        return float(np.delete(self.dose, self.targets).max(initial=0.0))


def plan(
    atoms: Atoms2D,
    targets: ArrayLike,
    probe: Probe,
    current_pa: float,
    timeout_s: float,
    barn: Mapping[str, float],
    move_s: float = 0.05,
    start: ArrayLike = (0.0, 0.0),
) -> Plan:
    """Order the targets, and estimate time, dose and damage.

    Waiting times for the ejection are exponential, with (cross section) * (fluence at the probe's centre) * (electrons
    per second) per second; the neighbours receive the probe's tails for as long.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    targets : (K,) array of int
        Which atoms; each once.
    probe : Probe
        The beam.
    current_pa : float
        Beam current in pA.
    timeout_s : float
        Longest exposure of a target in seconds.
    barn : mapping
        Ejection cross section of each class in barn; classes left out stay.
    move_s : float
        Seconds between two exposures: moving, aiming, blanking.
    start : (float, float)
        Where the beam comes from, in Å.

    Raises
    ------
    StemAeError
        If there is no target, one is listed twice, or its class has no cross section.
    """
    checks.positive(current_pa, "current_pa", checks.MOST_PA, "pA")
    checks.positive(timeout_s, "timeout_s", checks.MOST_S, "s")
    checks.number(move_s, "move_s", 0.0, checks.MOST_S, "s")
    for name, value in barn.items():
        checks.number(value, f"The cross section of {name}", least=0.0, unit="barn")
    targets = _some(np.asarray(targets, np.int64).reshape(-1), "There are no targets: choose some atoms.")
    if len(np.unique(targets)) != len(targets):
        raise StemAeError("A target is listed twice: list every atom once.")
    cross_section = np.array([barn.get(name, 0.0) for name in atoms.species])[atoms.labels] * BARN
    if np.any(cross_section[targets] <= 0):
        raise StemAeError("A target's class has no ejection cross section: give one in barn for each class of targets.")
    targets = targets[shortest_path(atoms.positions[targets], start)]
    way = np.vstack([np.asarray(start, float), atoms.positions[targets]])
    travel = float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())
    electrons_per_s = electrons_per_pixel(current_pa, 1e6)
    rates = cross_section[targets] * electrons_per_s * float(fluence(probe, (0.0, 0.0), np.zeros((1, 2)))[0])
    success = -np.expm1(-rates * timeout_s)
    seconds = success / rates  # the mean of an exponential waiting time that ends at the timeout
    dose = np.zeros(len(atoms))
    tree = cKDTree(atoms.positions)
    for target, time in zip(targets, seconds, strict=True):
        near = tree.query_ball_point(atoms.positions[target], _REACH)
        away = atoms.positions[near] - atoms.positions[target]
        dose[near] += fluence(probe, (0.0, 0.0), away) * electrons_per_s * time
    bystanders = np.delete(np.arange(len(atoms)), targets)
    collateral = -np.expm1(-cross_section[bystanders] * dose[bystanders])
    return Plan(
        targets=targets,
        travel=travel,
        exposure_s=float(seconds.mean()),
        time_s=float(seconds.sum() + move_s * len(targets)),
        success=float(success.mean()),
        dose=dose,
        collateral=float(collateral.sum()),
    )


def lost_beside(atoms: Atoms2D, targets: ArrayLike, probe: Probe, barn: Mapping[str, float]) -> float:
    """Return how many atoms of other columns are lost to the probe's tails for each one that leaves a target.

    While the beam waits, every column receives its share of it: neither current nor time changes the ratio.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    targets : (K,) array of int
        Which atoms; the ratio is their mean.
    probe : Probe
        The beam.
    barn : mapping
        Ejection cross section of each class in barn; classes left out stay.
    """
    cross_section = np.array([barn.get(name, 0.0) for name in atoms.species])[atoms.labels]
    peak = float(fluence(probe, (0.0, 0.0), np.zeros((1, 2)))[0])
    tree = cKDTree(atoms.positions)
    ratios = []
    for target in np.asarray(targets, np.int64).tolist():
        near = np.setdiff1d(tree.query_ball_point(atoms.positions[target], _REACH), [target])
        tails = fluence(probe, (0.0, 0.0), atoms.positions[near] - atoms.positions[target])
        ratios.append(float(cross_section[near] @ tails) / (cross_section[target] * peak))
    return float(np.mean(ratios))


# --- lattices ---------------------------------------------------------------------------------------------------------


def lattice_vectors(points: FloatArray) -> FloatArray:
    """Return two lattice vectors of a sublattice in Å, ``(2, 2)``: the one closest to +x, and one 40° to 100° from it.

    Medians of the vectors to the nearest neighbours in these directions.

    Raises
    ------
    StemAeError
        If there are too few points, or they have no such neighbours.
    """
    if len(points) < 7:
        raise StemAeError("There are too few atoms for a lattice: use a larger region.")
    tree = cKDTree(points)
    nearest = float(np.median(tree.query(points, k=2)[0][:, 1]))
    pairs = tree.query_pairs(1.25 * nearest, output_type="ndarray")
    vectors = points[pairs[:, 1]] - points[pairs[:, 0]]
    vectors = np.vstack([vectors, -vectors])
    angle = np.rad2deg(np.arctan2(vectors[:, 1], vectors[:, 0]))
    # Directions repeat, each with a spread: those within 20° of the one closest to x belong together.
    first = angle[np.argmin(np.abs(angle))]
    turn = (angle - first + 180) % 360 - 180
    second = turn[(turn > 40) & (turn < 100)]
    if not len(second):
        raise StemAeError("These atoms form no lattice: choose one class of a crystal.")
    turn_to_second = float(np.median(second))
    groups = [np.abs(turn) < 20, np.abs(turn - turn_to_second) < 20]
    result: FloatArray = np.array([np.median(vectors[group], axis=0) for group in groups])
    return result


def lattice_indices(points: FloatArray, vectors: FloatArray, origin: int) -> IntArray:
    """Return the lattice coordinates of each point as seen from one of them, ``(N, 2)`` integers.

    They are counted from neighbour to neighbour, so that slow distortions of the scan do not add up. Points that cannot
    be reached get a large negative number.
    """
    tree = cKDTree(points)
    inverse = np.linalg.inv(vectors)
    reach = 1.3 * float(np.linalg.norm(vectors, axis=1).max())
    index = np.full((len(points), 2), _UNREACHED, np.int64)
    index[origin] = 0
    queue = collections.deque([origin])
    while queue:
        here = queue.popleft()
        for there in sorted(tree.query_ball_point(points[here], reach)):
            steps = (points[there] - points[here]) @ inverse
            whole = np.rint(steps)
            if index[there, 0] == _UNREACHED and np.abs(steps - whole).max() < 0.25 and whole.any():
                index[there] = index[here] + whole.astype(np.int64)
                queue.append(there)
    return index


def _some(found: IntArray, otherwise: str) -> IntArray:
    if not len(found):
        raise StemAeError(otherwise)
    return found
