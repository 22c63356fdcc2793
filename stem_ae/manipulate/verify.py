"""What an exposure has done, from images afterwards: Bayes' rule over the classes that each column may have now.

Columns change along a *ladder*, such as ``("S2", "S1", "")``: one class becomes the next as an atom leaves. Each image
multiplies the odds; images are taken until they are clear.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.manipulate.beam import Region
from stem_ae.manipulate.exposure import Outcome

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SAME = 0.7  # Å between two finds of one column
_MISSED = 0.01  # chance that a column is not found at all, or that one is found where there is none
_DOUBT = 0.02  # no single image makes a class less likely than this
CLEAR = 0.95
_BYSTANDER = (0.0, 2e-3, 1e-4)  # chance that a column next to the exposure lost none (the rest), one, two
_GAINED = 1e-4  # ... that it was refilled
RIM = 0.8  # Å: columns this close to the image's edge are not judged


class Verdict(enum.StrEnum):
    """What the images say about the target."""

    ONE = "one ejected"
    NONE = "nothing ejected"
    MORE = "more than one ejected"
    REFILLED = "refilled"
    """The signal has stepped, and yet the column is what it was, or more."""
    MOVED = "moved"
    """The dopant beside the target is at the target now."""
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


def likelihood(found: Atoms2D, atom: int, is_there: bool, name: str) -> float:
    """Return how likely a find is where there is a column of this class.

    Parameters
    ----------
    found : Atoms2D
        What was found in an image.
    atom : int
        The nearest find.
    is_there : bool
        Whether it is near enough to be this column's.
    name : str
        The class; empty: there is no atom.
    """
    if not name:
        return _MISSED if is_there else 1.0
    if not is_there:
        return _MISSED
    share = float(found.probabilities[atom, found.species.index(name)]) if name in found.species else 0.0
    return max(share, _DOUBT)


class Verification:
    """Collects images around a target after its exposure.

    Parameters
    ----------
    atoms : Atoms2D
        The specimen before the exposure.
    target : int
        The column that was exposed.
    outcome : Outcome
        What the exposure's signal said.
    ladder : sequence of str
        Classes in the order in which one becomes the next; the last is empty: no atom.
    """

    def __init__(self, atoms: Atoms2D, target: int, outcome: Outcome, ladder: Sequence[str]) -> None:
        self._atoms, self._target, self._outcome = atoms, target, outcome
        self._ladder = tuple(ladder)
        self._on_ladder = [k for k, name in enumerate(atoms.symbols) if name in ladder]
        if target not in self._on_ladder:
            raise StemAeError(f"{atoms.symbols[target]} is not one of {', '.join(filter(None, ladder))}.")
        self._odds = {k: np.log(self._prior(k) + 1e-12) for k in self._on_ladder}
        self._judged: set[int] = set()

    def _prior(self, atom: int) -> FloatArray:
        """Return the chance of each class of the ladder before any image."""
        losses = _BYSTANDER
        if atom == self._target:
            losses = {Outcome.STEP: (0.02, 0.96, 0.02), Outcome.DOUBLE: (0.02, 0.08, 0.9)}.get(
                self._outcome, (0.8, 0.15, 0.05)
            )
        start = self._ladder.index(self._atoms.symbols[atom])
        chance = np.zeros(len(self._ladder))
        for lost, share in enumerate(losses):
            chance[min(start + lost, len(chance) - 1)] += share
        if start:
            chance[start - 1] += _GAINED
        chance[start] += 1 - chance.sum()
        return chance

    def add(self, found: Atoms2D, region: Region) -> None:
        """Take in an image.

        Parameters
        ----------
        found : Atoms2D
            What was found in it, with positions as in the map of the specimen.
        region : (float, float, float, float)
            What the image covers, x0, y0, x1, y1, likewise.
        """
        x0, y0, x1, y1 = region
        x, y = self._atoms.positions.T
        inside = (x > x0 + RIM) & (x < x1 - RIM) & (y > y0 + RIM) & (y < y1 - RIM)
        tree = cKDTree(found.positions) if len(found) else None
        for atom in self._on_ladder:
            if not inside[atom]:
                continue
            distance, nearest = tree.query(self._atoms.positions[atom]) if tree else (np.inf, 0)
            self._odds[atom] = self._odds[atom] + np.log(self._likelihood(found, int(nearest), distance < SAME))
            self._judged.add(atom)

    def _likelihood(self, found: Atoms2D, atom: int, is_there: bool) -> FloatArray:
        """Return how likely this find is for each class of the ladder."""
        return np.array([likelihood(found, atom, is_there, name) for name in self._ladder])

    def _posterior(self, atom: int) -> FloatArray:
        weight: FloatArray = np.exp(self._odds[atom] - self._odds[atom].max())
        posterior: FloatArray = weight / weight.sum()
        return posterior

    @property
    def is_clear(self) -> bool:
        """Whether another image would not help."""
        if self._target not in self._judged:
            return False
        return all(self._posterior(atom).max() >= CLEAR for atom in self._judged)

    def species(self, atom: int) -> tuple[str, float]:
        """Return the most likely class of a column now, and its probability."""
        posterior = self._posterior(atom)
        return self._ladder[int(posterior.argmax())], float(posterior.max())

    @property
    def verdict(self) -> Verdict:
        """What has become of the target."""
        after, probability = self.species(self._target)
        if self._target not in self._judged or probability < CLEAR:
            return Verdict.UNCLEAR
        lost = self._ladder.index(after) - self._ladder.index(self._atoms.symbols[self._target])
        if lost < 0:
            return Verdict.REFILLED
        if lost == 0:
            stepped = self._outcome in (Outcome.STEP, Outcome.DOUBLE)
            return Verdict.REFILLED if stepped else Verdict.NONE
        return Verdict.ONE if lost == 1 else Verdict.MORE

    def bystanders(self) -> list[Change]:
        """Return the other columns that have changed."""
        return [change for atom, change in self._changes().items() if atom != self._target]

    def _changes(self) -> dict[int, Change]:
        changes = {}
        for atom in sorted(self._judged):
            before, (after, probability) = self._atoms.symbols[atom], self.species(atom)
            if after != before and probability >= CLEAR:
                x, y = self._atoms.positions[atom]
                changes[atom] = Change((float(x), float(y)), before, after, probability)
        return changes

    def updated(self) -> Atoms2D:
        """Return the map of the specimen with what has changed."""
        labels, probabilities = self._atoms.labels.copy(), self._atoms.probabilities.copy()
        gone = np.zeros(len(self._atoms), bool)
        for atom, change in self._changes().items():
            if change.after in self._atoms.species:
                labels[atom] = self._atoms.species.index(change.after)
                probabilities[atom] = np.eye(len(self._atoms.species))[labels[atom]]
            else:
                gone[atom] = True
        return dataclasses.replace(self._atoms, labels=labels, probabilities=probabilities)[~gone]
