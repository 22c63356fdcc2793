"""How well found atoms agree with the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BINS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)  # of a probability


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """The agreement.

    Attributes
    ----------
    recall : float
        Share of the true columns that were found.
    precision : float
        Share of the found atoms that are there.
    true, found : (K,) array
        Matched pairs: index of the column, index of the atom.
    errors : (K, 2) array
        Found less true position of each pair, in Å.
    true_names, found_names : (K,) array of str
        Classes of each pair.
    """

    recall: float
    precision: float
    true: IntArray
    found: IntArray
    errors: FloatArray
    true_names: NDArray[np.str_]
    found_names: NDArray[np.str_]

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision."""
        return _harmonic(self.recall, self.precision)

    @property
    def accuracy(self) -> float:
        """Share of the matched atoms with the right class; NaN if none matched."""
        return float((self.true_names == self.found_names).mean()) if len(self.true) else float("nan")

    @property
    def rmse(self) -> float:
        """Root mean square error of the matched atoms, per axis, in Å; NaN if none matched."""
        return float(np.sqrt((self.errors**2).mean())) if len(self.true) else float("nan")

    def of_class(self, name: str) -> tuple[float, float, float]:
        """Return recall, precision and F1 of one class among the matched pairs."""
        hits = float(((self.true_names == name) & (self.found_names == name)).sum())
        recall = hits / max(int((self.true_names == name).sum()), 1)
        precision = hits / max(int((self.found_names == name).sum()), 1)
        return recall, precision, _harmonic(recall, precision)

    def summary(self) -> dict[str, float]:
        """Return the four numbers that sum it up."""
        return {"recall": self.recall, "precision": self.precision, "accuracy": self.accuracy, "rmse": self.rmse}


def score(
    atoms: Atoms2D, positions: ArrayLike, names: Sequence[str], within: float = 0.5, edge: float = 0.0
) -> Score:
    """Match atoms and true columns one to one, each with its nearest, and count.

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
    edge : float
        Columns and atoms closer to the border than this, in Å, do not count. Whatever it is, an atom within ``within``
        of the border that matches nothing does not count: its column may lie just outside.
    """
    truth = np.asarray(positions, dtype=float).reshape(-1, 2)
    if not len(truth) or not len(atoms):
        none, no_names = np.zeros(0, np.int64), np.zeros(0, np.str_)
        return Score(
            float(not len(truth)), float(not len(atoms)), none, none, np.zeros((0, 2)), no_names, no_names
        )
    distance, nearest = cKDTree(atoms.positions).query(truth)
    back = cKDTree(truth).query(atoms.positions)[1]
    matched = (distance <= within) & (back[nearest] == np.arange(len(truth)))
    is_there = np.zeros(len(atoms), bool)
    is_there[nearest[matched]] = True
    true_counts = _inside(atoms, truth, edge)
    found_counts = _inside(atoms, atoms.positions, edge) & (is_there | _inside(atoms, atoms.positions, within))
    true = np.flatnonzero(matched & true_counts)
    found = nearest[true]
    return Score(
        recall=float(matched[true_counts].mean()) if true_counts.any() else 1.0,
        precision=float(is_there[found_counts].mean()) if found_counts.any() else 1.0,
        true=true,
        found=found,
        errors=atoms.positions[found] - truth[true],
        true_names=np.array(names, np.str_)[true],
        found_names=np.array(atoms.symbols, np.str_)[found],
    )


def calibration_error(stated: ArrayLike, right: ArrayLike) -> float:
    """Return the expected calibration error of probabilities (Naeini et al., AAAI 2015).

    Parameters
    ----------
    stated : (N,) array
        Probabilities.
    right : (N,) bool array
        Whether it was so.

    Returns
    -------
    float
        The mean difference between both in bins of the probability, each bin by its number of cases.
    """
    probability, true = np.asarray(stated, dtype=float), np.asarray(right, dtype=float)
    of = np.digitize(probability, _BINS)
    gaps = np.bincount(of, probability - true)
    return float(np.abs(gaps).sum() / max(len(probability), 1))


def _inside(atoms: Atoms2D, positions: FloatArray, edge: float) -> NDArray[np.bool_]:
    """Tell which positions are at least ``edge`` Å away from the border of the atoms' image."""
    corner = (np.array(atoms.shape[::-1]) - 1) * np.array(atoms.step[::-1])
    inside: NDArray[np.bool_] = np.all((positions >= edge) & (positions <= corner - edge), axis=1)
    return inside


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / max(a + b, 1e-12)
