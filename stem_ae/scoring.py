"""How well found atoms agree with the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D


@dataclasses.dataclass(frozen=True)
class Score:
    """The agreement.

    Attributes
    ----------
    recall : float
        Share of the true columns that were found.
    precision : float
        Share of the found atoms that are there.
    accuracy : float
        Share of the matched ones with the right class.
    rmse : float
        Root mean square distance of the matched ones, per axis, in Å.
    """

    recall: float
    precision: float
    accuracy: float
    rmse: float


def score(atoms: Atoms2D, positions: ArrayLike, names: Sequence[str], within: float = 0.5) -> Score:
    """Match atoms and true columns one to one, each with its nearest, and count.

    An atom at the very edge of the frame that matches nothing is left out: its column may lie just outside.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    positions : (M, 2) array
        True columns in Å, in the image's frame as in ``Atoms2D``.
    names : sequence of str
        Their classes.
    within : float
        Largest distance of a match in Å.
    """
    truth = np.asarray(positions, dtype=float).reshape(-1, 2)
    if not len(truth) or not len(atoms):
        return Score(float(not len(truth)), float(not len(atoms)), float("nan"), float("nan"))
    distance, nearest = cKDTree(atoms.positions).query(truth)
    _, back = cKDTree(truth).query(atoms.positions)
    matched = (distance <= within) & (back[nearest] == np.arange(len(truth)))
    symbols = atoms.symbols
    right = [symbols[found] == names[true] for true, found in enumerate(nearest) if matched[true]]
    far_corner = np.multiply(atoms.shape[::-1], atoms.sampling[::-1])
    at_edge = np.any((atoms.positions < within) | (atoms.positions > far_corner - within), axis=1)
    at_edge[nearest[matched]] = False
    return Score(
        recall=float(matched.mean()),
        precision=float(matched.sum() / max(len(atoms) - at_edge.sum(), 1)),
        accuracy=float(np.mean(right)) if right else float("nan"),
        rmse=float(np.sqrt(np.mean(distance[matched] ** 2) / 2)) if right else float("nan"),
    )
