"""What an exposure has done, from images afterwards: Bayes' rule over the classes that each column may have now.

Columns change along a *ladder*, such as ``("S2", "S1", "")``: one class becomes the next as an atom leaves. How likely
that is beside the beam follows from the dose that each column has received. Images are taken until the odds are clear
on either side, as in Wald's sequential test (Ann. Math. Stat. 16 (1945) 117): until a loss is certain, or until so few
losses can have gone unnoticed that another image is not worth its dose.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.manipulate.columns import Evidence
from stem_ae.manipulate.exposure import Outcome

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CLEAR = 0.95
_NAMED = 0.5  # a column that is another one now is reported if it rather has changed than was misread in the survey
_CERTAIN = 0.999  # two surveys compare hundreds of columns
_SAME_COLUMN = 0.7  # Å between two finds of it
_UNNOTICED = 0.02  # of the losses that were to be expected beside the target: what images may leave open
_GAINED = 1e-4  # chance that a column was refilled
_WENT_THERE = 0.1  # ... by the dopant that has left the target beside it
BOND = 1.9  # Å: neighbours in a sheet are closer than this in projection
_LEAST = 1e-6  # atoms that a column may have lost however little dose it received
_AT_TARGET = {Outcome.STEP: (0.02, 0.96, 0.02), Outcome.DOUBLE: (0.02, 0.08, 0.9)}
_NO_STEP = (0.8, 0.15, 0.05)


class Verdict(enum.StrEnum):
    """What the images say about the target."""

    ONE = "one ejected"
    NONE = "nothing ejected"
    MORE = "more than one ejected"
    REFILLED = "refilled"
    """The signal has stepped, and yet the column is what it was, or more."""
    MOVED = "moved"
    """The dopant beside the target is at the target now; or the one that was to be removed is at a neighbour."""
    ASTRAY = "moved elsewhere"
    GONE = "dopant gone"
    UNCLEAR = "unclear"


@dataclasses.dataclass(frozen=True)
class Change:
    """A column that is another one now.

    Parameters
    ----------
    position : (float, float)
        x and y in Å, as in the map of the specimen.
    before, after : str
        Its classes; empty for none.
    probability : float
        Of ``after``.
    """

    position: tuple[float, float]
    before: str
    after: str
    probability: float


@dataclasses.dataclass(frozen=True, eq=False)
class Belief:
    """What each column was in the survey, and what it is now, as far as images and doses say.

    Parameters
    ----------
    ladder : tuple of str
        Classes in the order in which one becomes the next; the last is empty: no atom.
    chance : (N, L, L) array
        Of having been one class of the ladder and being another now. Columns that are not on the ladder have zeros.
    """

    ladder: tuple[str, ...]
    chance: FloatArray

    @classmethod
    def of(
        cls, atoms: Atoms2D, ladder: Sequence[str], evidence: Evidence, known: FloatArray | None = None
    ) -> Belief:
        """Return what a survey says: what was known or else how frequent each class is, and the column's own counts.

        Parameters
        ----------
        atoms : Atoms2D
            What was found.
        ladder : sequence of str
            Classes.
        evidence : Evidence
            What the survey's counts say; columns that are not among them are what they were found to be.
        known : (N, L) array, optional
            The chance of each class as known before; zeros for columns of which nothing is.
        """
        ladder = tuple(ladder)
        counts = atoms.counts()
        frequent = np.array([counts.get(name, 0) + 0.5 if name else 0.0 for name in ladder])  # what was found is there
        as_found = np.array([[name == found for name in ladder] for found in atoms.symbols], float)
        known = np.zeros_like(as_found) if known is None else known
        is_known = known.any(axis=1, keepdims=True)
        by_counts = np.where(is_known, known, frequent) * _as_chances(evidence.log_likelihood(ladder))
        on_ladder = as_found.sum(axis=1) > 0
        share = np.where(evidence.seen[:, None], by_counts, np.where(is_known, known, as_found)) * on_ladder[:, None]
        share = share / np.where(on_ladder, share.sum(axis=1), 1.0)[:, None]
        return cls(ladder, share[:, :, None] * np.eye(len(ladder)))

    def after(self, change: FloatArray) -> Belief:
        """Return what is believed after each column has gone from class to class with chances ``(N, L, L)``."""
        return dataclasses.replace(self, chance=self.chance @ change)

    def aged(self, expected: FloatArray) -> Belief:
        """Return what is believed once each column is expected to have lost atoms, ``(N,)``: by its dose."""
        gained = np.full(len(expected), _GAINED)
        return self.after(_changes(_chances_of_loss(expected), gained, len(self.ladder)))

    def passed_on(self, old: Atoms2D, new: Atoms2D) -> FloatArray:
        """Return what is believed now of the columns of another map, ``(N, L)``; zeros if they are not in this one."""
        distance, match = cKDTree(old.positions).query(new.positions)
        passed_on: FloatArray = self.now[match] * (distance < _SAME_COLUMN)[:, None]
        return passed_on

    def given(self, evidence: Evidence) -> Belief:
        """Return what is believed after images of the columns as they are now."""
        log_likelihood = np.where(evidence.seen[:, None], evidence.log_likelihood(self.ladder), 0.0)
        chance = self.chance * _as_chances(log_likelihood)[:, None, :]
        total = chance.sum(axis=(1, 2), keepdims=True)
        return dataclasses.replace(self, chance=np.divide(chance, total, out=chance, where=total > 0))

    def forgotten(self, columns: ArrayLike) -> Belief:
        """Return the same with the past of some columns forgotten: what has become of them was said."""
        chance, columns = self.chance.copy(), np.asarray(columns, np.int64)
        chance[columns] = self.now[columns][:, :, None] * np.eye(len(self.ladder))
        return dataclasses.replace(self, chance=chance)

    def contradicts(self, atoms: Atoms2D) -> NDArray[np.bool_]:
        """Return which columns are clearly of another class now than in the map, ``(N,)``."""
        names = np.array(self.ladder)[self.now.argmax(axis=1)]
        another: NDArray[np.bool_] = (self.now.max(axis=1) >= CLEAR) & (names != np.array(atoms.symbols))
        return another

    def corrected(self, atoms: Atoms2D, columns: NDArray[np.bool_]) -> tuple[Atoms2D, NDArray[np.bool_]]:
        """Return the map with some columns as they are now, and which columns are left."""
        labels, probabilities = atoms.labels.copy(), atoms.probabilities.copy()
        kept = np.ones(len(atoms), bool)
        for k in np.flatnonzero(columns).tolist():
            name = self.ladder[int(self.now[k].argmax())]
            if name in atoms.species:
                labels[k] = atoms.species.index(name)
                probabilities[k] = np.eye(len(atoms.species))[labels[k]]
            else:
                kept[k] = False
        return dataclasses.replace(atoms, labels=labels, probabilities=probabilities)[kept], kept

    def __getitem__(self, columns: NDArray[np.bool_]) -> Belief:
        """Return the belief about some of the columns."""
        return dataclasses.replace(self, chance=self.chance[columns])

    @property
    def on_ladder(self) -> NDArray[np.bool_]:
        """Which columns it is about, ``(N,)``."""
        on_ladder: NDArray[np.bool_] = self.chance.sum(axis=(1, 2)) > 0
        return on_ladder

    @property
    def now(self) -> FloatArray:
        """Chance of each class now, ``(N, L)``."""
        now: FloatArray = self.chance.sum(axis=1)
        return now

    @property
    def lost(self) -> FloatArray:
        """Chance of having lost atoms: one gained, none, one, and so on, ``(N, L + 1)``."""
        n = len(self.ladder)
        diagonals = [np.trace(self.chance, offset=k, axis1=1, axis2=2) for k in range(n)]
        gained = sum(np.trace(self.chance, offset=-k, axis1=1, axis2=2) for k in range(1, n))
        return np.column_stack([gained, *diagonals])

    @property
    def changed(self) -> FloatArray:
        """Chance of being another class than in the survey, ``(N,)``."""
        changed: FloatArray = self.lost.sum(axis=1) - self.lost[:, 1]
        return changed


def _as_chances(log: FloatArray) -> FloatArray:
    chances: FloatArray = np.exp(log - log.max(axis=1, keepdims=True))
    return chances


def _chances_of_loss(expected: FloatArray) -> FloatArray:
    """Return the chances to have lost none, one and more atoms, ``(N, 3)``, for how many are to be expected."""
    loss = np.maximum(expected, _LEAST)
    none, one = np.exp(-loss), loss * np.exp(-loss)
    return np.column_stack([none, one, -np.expm1(-loss) - one])


def _changes(losses: FloatArray, gained: FloatArray, steps: int) -> FloatArray:
    """Return the chances to go from class to class ``(N, L, L)``.

    Parameters
    ----------
    losses : (N, 3) array
        Chances to lose none, one and two atoms.
    gained : (N,) array
        Chance to gain one, where there is room for it.
    steps : int
        Classes.
    """
    change = np.zeros((len(losses), steps, steps))
    for start in range(steps):
        for lost in range(losses.shape[1]):
            change[:, start, min(start + lost, steps - 1)] += losses[:, lost]
        if start:
            change[:, start] *= 1 - gained[:, None]
            change[:, start, start - 1] += gained
    return change


def differences(old: Atoms2D, was: Belief, new: Atoms2D, now: Belief) -> list[Change]:
    """Return the columns of which two maps of one specimen clearly say different things.

    Parameters
    ----------
    old, new : Atoms2D
        The maps, with positions in the same frame.
    was, now : Belief
        What is believed about each.
    """
    if not len(old) or not len(new):
        return []
    distance, match = cKDTree(new.positions).query(old.positions)
    changes = []
    for k in np.flatnonzero((distance < _SAME_COLUMN) & was.on_ladder).tolist():
        before, after = was.now[k], now.now[match[k]]
        chance = float(min(before.max(), after.max()))
        if before.argmax() != after.argmax() and chance >= _CERTAIN:
            x, y = old.positions[k].tolist()
            changes.append(Change((x, y), was.ladder[before.argmax()], now.ladder[after.argmax()], chance))
    return changes


class Verification:
    """Judges the columns around a target after its exposure.

    Parameters
    ----------
    atoms : Atoms2D
        The specimen before the exposure.
    target : int
        The column that was exposed.
    outcome : Outcome
        What the exposure's signal said.
    before : Belief
        What was believed before.
    expected : (N,) array
        How many atoms each column is expected to have lost beside the target, by its dose.
    """

    def __init__(
        self, atoms: Atoms2D, target: int, outcome: Outcome, before: Belief, expected: FloatArray
    ) -> None:
        self._atoms, self._target, self._outcome = atoms, target, outcome
        if not before.on_ladder[target]:
            raise StemAeError(f"{atoms.symbols[target]} is not one of {', '.join(filter(None, before.ladder))}.")
        losses = _chances_of_loss(expected)
        losses[target] = _AT_TARGET.get(outcome, _NO_STEP)
        self._prior = before.after(_changes(losses, self._gained(before.ladder), len(before.ladder)))
        self.belief = self._prior
        """What is believed now."""
        self._judged = np.zeros(len(atoms), bool)

    def _gained(self, ladder: Sequence[str]) -> FloatArray:
        """Return the chance of each column to have gained an atom: a dopant that leaves may have gone next door."""
        gained = np.full(len(self._atoms), _GAINED)
        if ladder[-1]:
            away = np.linalg.norm(self._atoms.positions - self._atoms.positions[self._target], axis=1)
            gained[(away < BOND) & (away > 0)] = _WENT_THERE
        return gained

    def look(self, evidence: Evidence) -> None:
        """Take in what all images since the exposure say."""
        self.belief = self._prior.given(evidence)
        self._judged = evidence.seen & self._prior.on_ladder

    @property
    def is_clear(self) -> bool:
        """Whether another image would not be worth its dose."""
        if not (self._judged[self._target] and self.belief.lost[self._target].max() >= CLEAR):
            return False
        beside = self._beside
        unresolved = self.belief.changed[beside & ~self._is_another]
        return float(unresolved.sum()) <= _UNNOTICED * float(self._prior.changed[beside].sum())

    @property
    def _beside(self) -> NDArray[np.bool_]:
        """Which columns beside the target were looked at."""
        beside: NDArray[np.bool_] = self._judged & (np.arange(len(self._atoms)) != self._target)
        return beside

    @property
    def _is_another(self) -> NDArray[np.bool_]:
        """Which columns are another class now than in the map, ``(N,)``."""
        another: NDArray[np.bool_] = self._judged & self.belief.contradicts(self._atoms)
        return another

    @property
    def _has_changed(self) -> NDArray[np.bool_]:
        changed: NDArray[np.bool_] = self._is_another & (self.belief.changed >= _NAMED)
        return changed

    @property
    def verdict(self) -> Verdict:
        """What has become of the target."""
        chance = self.belief.lost[self._target]
        if not (self._judged[self._target] and chance.max() >= CLEAR):
            return Verdict.UNCLEAR
        lost = int(chance.argmax()) - 1
        if lost < 0:
            return Verdict.REFILLED
        if lost == 0:
            stepped = self._outcome in (Outcome.STEP, Outcome.DOUBLE)
            return Verdict.REFILLED if stepped else Verdict.NONE
        if self.belief.ladder[-1] and self._next_door.any():
            return Verdict.MOVED
        return Verdict.ONE if lost == 1 else Verdict.MORE

    @property
    def _next_door(self) -> NDArray[np.bool_]:
        """Which columns beside the target have gained an atom."""
        away = np.linalg.norm(self._atoms.positions - self._atoms.positions[self._target], axis=1)
        there: NDArray[np.bool_] = self._has_changed & (self.belief.lost[:, 0] >= CLEAR) & (away < BOND) & (away > 0)
        return there

    def bystanders(self) -> list[Change]:
        """Return the other columns that have changed since the survey, unless that was said before."""
        changes = []
        for k in np.flatnonzero(self._beside & self._has_changed).tolist():
            now = int(self.belief.now[k].argmax())
            before = int(np.delete(self.belief.chance[k, :, now], now).argmax())
            before += before >= now
            x, y = self._atoms.positions[k]
            ladder, chance = self.belief.ladder, float(self.belief.changed[k])
            changes.append(Change((float(x), float(y)), ladder[before], ladder[now], chance))
        return changes

    def updated(self) -> tuple[Atoms2D, Belief, NDArray[np.bool_]]:
        """Return the map of the specimen and the belief about it with what has changed, and which columns are left."""
        atoms, kept = self.belief.corrected(self._atoms, self._is_another)
        said = np.flatnonzero(self._has_changed | (np.arange(len(self._atoms)) == self._target))
        return atoms, self.belief.forgotten(said)[kept], kept
