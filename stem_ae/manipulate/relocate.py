"""Finds a known region of a crystal again after some time without images.

A crystal that has moved by a lattice vector looks almost the same: only its defects, those that a run has made among
them, tell where it is. All shifts that bring atoms onto atoms are compared by Bayes' rule.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D

FloatArray = NDArray[np.float64]

CERTAIN = 0.999
"""A place counts as found from this probability."""

_SAME = 0.5  # Å between two finds of an atom
_ANCHORS = 6  # atoms, of which at least one is found again
_SIMILAR = 0.35  # Å: shifts closer than this are one
_MISREAD = 0.05  # share of atoms whose class networks misread
_FOUND_AGAIN = 0.7  # of the atoms that should be in the image
_IN_VIEW = 0.5  # of what is known: small pieces look alike by chance
_FEWEST = 12
_EDGE = 1.0  # Å: atoms this close to the image's edge may be missing


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where a region of the specimen is now.

    Parameters
    ----------
    shift : (2,) array
        x and y in Å from where it was.
    probability : float
        That it is this shift, and none of the others that look alike.
    nearest : (2,) array
        The smallest shift that looks alike: where it is if it has not moved much.
    """

    shift: FloatArray
    probability: float
    nearest: FloatArray

    @property
    def is_certain(self) -> bool:
        """Whether the place is certain enough to expose there."""
        return self.probability >= CERTAIN


def relocated(
    before: Atoms2D, after: Atoms2D, deviation: float, expected: ArrayLike = (0.0, 0.0)
) -> Place | None:
    """Return where atoms are in another image of the same orientation; None if it does not show them.

    Parameters
    ----------
    before : Atoms2D
        Known atoms: their earlier positions, and the classes that they should have now; an empty name: no atom is left.
    after : Atoms2D
        What was found in the new image.
    deviation : float
        Å: how far the specimen may have gone from ``expected`` (standard deviation per axis).
    expected : (2,) array
        Å: how far it has probably gone.
    """
    if len(before) < _FEWEST or len(after) < _FEWEST:
        return None
    expected = np.asarray(expected, float)
    tree = cKDTree(after.positions)
    shifts = _candidates(before.positions, tree, expected, max(3 * deviation, 2.0))
    judged = [found for shift in shifts if (found := _judge(before, after, tree, shift)) is not None]
    if not judged:
        return None
    places = np.array([shift for shift, _ in judged])
    classes = _classes(before, after)
    odds = _log_likelihoods(np.array([counts for _, counts in judged]), classes.index("") if "" in classes else None)
    odds -= 0.5 * np.sum((places - expected) ** 2, axis=1) / max(deviation, _SAME) ** 2
    chances = np.exp(odds - odds.max())
    best = int(np.argmax(chances))
    nearest = places[np.argmin(np.linalg.norm(places, axis=1))]
    return Place(places[best], float(chances[best] / chances.sum()), nearest)


def _candidates(positions: FloatArray, tree: cKDTree, expected: FloatArray, reach: float) -> FloatArray:
    """Return the shifts that bring one of some atoms in the middle onto an atom of the image, each once."""
    low, high = tree.data.min(axis=0), tree.data.max(axis=0)
    middle = np.clip(positions.mean(axis=0) + expected, low, high) - expected
    _, anchors = cKDTree(positions).query(middle, k=_ANCHORS)
    shifts = np.vstack(
        [tree.data[tree.query_ball_point(positions[k] + expected, reach)] - positions[k] for k in anchors]
    )
    kept: list[FloatArray] = []
    left = np.ones(len(shifts), bool)
    for k, similar in enumerate(cKDTree(shifts).query_ball_point(shifts, _SIMILAR) if len(shifts) else ()):
        if left[k]:
            kept.append(shifts[similar].mean(axis=0))
            left[similar] = False
    return np.array(kept).reshape(-1, 2)


def _judge(before: Atoms2D, after: Atoms2D, tree: cKDTree, shift: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Return a shift, made exact, and what each class was found as; None if the atoms are not there.

    The counts are ``(C, C + 1)``: the classes of ``before`` among those of both maps, and one for not found at all.
    """
    height, width = np.multiply(after.shape, after.known_sampling)
    for _ in range(2):
        moved = before.positions + shift
        inside = np.all((moved > _EDGE) & (moved < np.array([width, height]) - _EDGE), axis=1)
        distance, index = tree.query(moved)
        found = inside & (distance < _SAME)
        if inside.sum() < _IN_VIEW * len(before) or found.sum() < _FOUND_AGAIN * inside.sum():
            return None
        shift = shift + np.median(after.positions[index[found]] - moved[found], axis=0)
    classes = _classes(before, after)
    was = np.array([classes.index(name) for name in before.symbols])
    now = np.array([classes.index(name) for name in after.symbols])[index]
    now[~found] = len(classes)
    counts = np.zeros((len(classes), len(classes) + 1))
    np.add.at(counts, (was[inside], now[inside]), 1.0)
    return shift, counts


def _classes(before: Atoms2D, after: Atoms2D) -> list[str]:
    return sorted({*before.species, *after.species})


def _log_likelihoods(counts: FloatArray, empty: int | None) -> FloatArray:
    """Return for each shift how much likelier its counts are if it is the right one than if it is just any.

    Parameters
    ----------
    counts : (K, C, C + 1) array
        What each class was found as. Nearly all shifts are wrong, so together they show what is found at a wrong shift.
    empty : int, optional
        Which class stands for no atom: it is rightly not found.
    """
    total = counts.sum(axis=0) + 0.5
    if_wrong = total / total.sum(axis=1, keepdims=True)
    classes = len(total)
    otherwise = total[:, :-1] * (1 - np.eye(classes))
    otherwise = otherwise / np.maximum(otherwise.sum(axis=1, keepdims=True), 1e-9)
    read = (1 - _MISREAD) * np.eye(classes) + _MISREAD * otherwise
    if_right = np.hstack([(1 - if_wrong[:, -1:]) * read, if_wrong[:, -1:]])  # an atom that was missed says nothing
    if empty is not None:
        if_right[empty] = _MISREAD / classes
        if_right[empty, -1] = 1 - _MISREAD
    result: FloatArray = (counts * np.log(if_right / if_wrong)).sum(axis=(1, 2))
    return result
