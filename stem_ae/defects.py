"""Defects of a sheet as its atoms show them: odd rings, vacancies, loose atoms, dopants, and what is unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import ase
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.classify import coordination, neighbours
from stem_ae.elit.prediction import Prediction
from stem_ae.structure.lattice import typical_distance
from stem_ae.structure.rings import defects as ring_defects

FloatArray = NDArray[np.float64]

_BOND = 1.42
"""Å: the sheet is scaled to graphene's bond, so that one rule tells what is bonded in any honeycomb."""
_MINORITY = 0.15
"""Share of the atoms up to which a class is a defect and not a sublattice."""
_DOUBTFUL = 0.12
"""Mean standard deviation over the ensemble above which an area is unknown; 0.5 is the most there can be."""


@dataclasses.dataclass(frozen=True)
class Defect:
    """One defect.

    Attributes
    ----------
    kind : str
        Such as ``"vacancy"``, ``"Stone-Wales"``, ``"Si"``, ``"2 neighbours"``, ``"unknown"``.
    position : (float, float)
        x, y in Å of the image.
    radius : float
        Å within which it lies.
    atoms : tuple of int
        Indices of its atoms; of a vacancy, those around it.
    confidence : float
        0 to 1.
    """

    kind: str
    position: tuple[float, float]
    radius: float
    atoms: tuple[int, ...]
    confidence: float


def find_defects(prediction: Prediction, threshold: float = 0.5) -> list[Defect]:
    """Return the defects that a prediction shows, the surest first.

    For sheets whose projection is a honeycomb (graphene, hexagonal boron nitride, dichalcogenides): rings are the faces
    of the graph of neighbours. What touches the border of the frame is left out.

    Parameters
    ----------
    prediction : Prediction
    threshold : float
        Least presence of an atom that counts.
    """
    present = np.flatnonzero(prediction.presence >= threshold)
    atoms = prediction.atoms[present]
    unknown = _unknown(prediction)
    if len(atoms) < 3:
        return unknown
    sure = prediction.presence[present]
    found = _rings(atoms, sure, prediction)
    taken = {index for defect in found for index in defect.atoms}
    found += [defect for defect in _loose(atoms, sure) if not taken & set(defect.atoms)]
    foreign = _foreign(atoms, prediction)
    strange = {index for defect in foreign for index in defect.atoms}
    found += [defect for defect in _minority(atoms) if not strange & set(defect.atoms)] + foreign
    found = [dataclasses.replace(defect, atoms=tuple(int(present[k]) for k in defect.atoms)) for defect in found]
    return sorted(found, key=lambda defect: -defect.confidence) + unknown


def _rings(atoms: Atoms2D, sure: FloatArray, prediction: Prediction) -> list[Defect]:
    typical = typical_distance(atoms.positions)
    flat = np.column_stack([atoms.positions, np.zeros(len(atoms))]) * _BOND / typical
    border = coordination(atoms)[1]
    result = []
    # A cell, although nothing is periodic: without one ASE takes fifty times as long to find the neighbours of a sheet.
    sheet = ase.Atoms(f"C{len(atoms)}", positions=flat, cell=[*(flat.max(0)[:2] + 10), 20])
    for defect in ring_defects(sheet):
        members = np.array(defect["atoms"])
        if border[members].any():
            continue
        centre = atoms.positions[members].mean(0)
        confidence = float(sure[members].min())
        kind = str(defect["kind"])
        if kind.startswith("vacancy"):
            confidence *= 1 - _atomness(prediction, centre, 0.4 * typical)
        radius = float(np.linalg.norm(atoms.positions[members] - centre, axis=1).max())
        result.append(_defect(kind, centre, radius, members, confidence))
    return result


def _atomness(prediction: Prediction, centre: FloatArray, radius: float) -> float:
    """Return the largest probability of an atom near a place."""
    step = prediction.working_sampling
    maps = prediction.working_probability.sum(0)
    y, x = np.ogrid[: maps.shape[0], : maps.shape[1]]
    near = (x * step - centre[0]) ** 2 + (y * step - centre[1]) ** 2 <= radius**2
    return float(maps[near].max(initial=0.0))


def _loose(atoms: Atoms2D, sure: FloatArray) -> list[Defect]:
    """Return atoms with fewer neighbours than is usual, each of which would be a bond left open."""
    count, border = coordination(atoms)
    if border.all():
        return []
    usual = int(np.bincount(count[~border]).argmax())
    reach = typical_distance(atoms.positions)
    loose = np.flatnonzero((count < usual) & ~border).tolist()
    return [_defect(neighbours(int(count[k])), atoms.positions[k], reach, [k], sure[k]) for k in loose]


def _minority(atoms: Atoms2D) -> list[Defect]:
    share = np.bincount(atoms.labels, minlength=len(atoms.species)) / len(atoms)
    rare = np.flatnonzero(share[atoms.labels] <= _MINORITY).tolist()
    reach = typical_distance(atoms.positions)
    return [
        _defect(atoms.species[atoms.labels[k]], atoms.positions[k], reach, [k], atoms.confidence[k]) for k in rare
    ]


def _foreign(atoms: Atoms2D, prediction: Prediction) -> list[Defect]:
    """Return the atoms that are as bright as no class is that they may be: an element which the model does not know."""
    reach = typical_distance(atoms.positions)
    distance, nearest = cKDTree(atoms.positions).query(prediction.foreign[:, :2])
    here = np.flatnonzero(distance < reach / 2).tolist()
    return [
        _defect("unknown", atoms.positions[k], reach, [k], 1 - 0.5 / novelty)
        for k, novelty in zip(nearest[here], prediction.foreign[here, 2], strict=True)
    ]


def _unknown(prediction: Prediction) -> list[Defect]:
    """Return the areas about which the members disagree."""
    step = prediction.working_sampling
    doubt = ndimage.gaussian_filter(prediction.working_uncertainty, 1.0 / step)
    areas, count = ndimage.label(doubt > _DOUBTFUL)
    result = []
    for label in range(1, count + 1):
        inside = areas == label
        row, column = ndimage.center_of_mass(inside)
        radius = step * float(np.sqrt(inside.sum() / np.pi))
        certain = float(np.clip(2 * doubt[inside].max(), 0, 1))
        result.append(_defect("unknown", np.array([column * step, row * step]), radius, [], certain))
    return sorted(result, key=lambda defect: -defect.radius)


def _defect(kind: str, centre: FloatArray, radius: float, atoms: Iterable[int], confidence: float) -> Defect:
    x, y = centre
    return Defect(kind, (float(x), float(y)), float(radius), tuple(int(k) for k in atoms), float(confidence))
