"""Whether the result of a frame can be believed, and what to do if not.

An ensemble draws rings on any image. Five things speak against them, each a number that is 0 for a usual frame and
exceeds 1 where there is reason to doubt:

* the lattice that the frame shows is not the one of the model's material at this sampling;
* the frame is unlike what the model knows (:mod:`stem_ae.elit.novelty`);
* the atoms that were found are not as far from their neighbours as in that material, or not evenly far;
* nothing was found;
* some atoms are too bright or too dim for every class of the model (:mod:`stem_ae.elit.foreign`).

:class:`Judge` says so of frame after frame without changing its mind at every one. Knows nothing of torch.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from stem_ae.atoms import Atoms2D
from stem_ae.elit.prediction import Prediction
from stem_ae.words import counted

Kind = Literal["lattice", "unfamiliar", "bonds", "nothing", "foreign"]
"""Reasons to doubt a result, the most important first."""

PRESENT = 0.5
"""Least probability of an atom that counts as evidence."""
CERTAIN_LATTICE = 0.9
"""Confidence (0 to 1) from which a lattice's estimate of the sampling may contradict a stated one."""
TOLERANCE = 0.1
"""Part by which stated sampling and lattice may differ: distortion and strain are smaller, wrong samplings larger."""
NO_LATTICE = 0.5
"""Clarity below which no lattice is seen."""
_BOND = 0.07  # part by which the mean distance of neighbours may differ from the material's
_UNEVEN = 0.12  # part by which the nearest of three neighbours may be nearer than their mean: noise makes it 0.06
_SAME_LATTICE = 0.05  # part by which a known material's lattice may differ from the one that is seen
_FEWEST = 12  # atoms away from the border: with fewer no distance is judged
_BORDER = 2.0  # Å
_NEIGHBOURS = 3  # of every atom in a hexagonal sheet seen from above
_FRAMES = 9  # that are judged together
_AT_ONCE = 2.5  # what exceeds this in the newest frame is said at once
_MARGIN: dict[Kind, float] = {"foreign": 0.5}  # how far beyond or within 1 before a judge changes its mind
_USUAL_MARGIN = 0.2
_NAMES = {"graphene": "graphene", "mos2": "MoS2"}


@dataclasses.dataclass(frozen=True)
class Trust:
    """The verdict on a result.

    Attributes
    ----------
    doubt : str, optional
        What speaks against it most; ``None`` if nothing does.
    sentence : str
        What is wrong and what to do; empty if nothing is.
    """

    doubt: Kind | None = None
    sentence: str = ""

    @property
    def believed(self) -> bool:
        """Whether the result can be believed."""
        return self.doubt is None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Evidence for and against a result.

    Attributes
    ----------
    atoms : int
        Atoms that are there with a probability of at least ``PRESENT``.
    conditions : float
        See :class:`~stem_ae.elit.prediction.Prediction`.
    foreign : int
        Atoms too bright or too dim for every class.
    bond, nearest : float
        Å, medians over the atoms of the mean distance to their three nearest neighbours, and of the distance to the
        nearest; NaN for too few atoms.
    sampling : float
        Å per pixel that was used.
    lattice : float
        Å per pixel by the lattice of the model's material; NaN if it was not asked.
    clarity : float
        How clearly a lattice is seen, 0 to 1; NaN if it was not looked for.
    """

    atoms: int
    conditions: float
    foreign: int = 0
    bond: float = math.nan
    nearest: float = math.nan
    sampling: float = math.nan
    lattice: float = math.nan
    clarity: float = math.nan

    @classmethod
    def of(cls, prediction: Prediction, lattice: float | None = None, clarity: float | None = None) -> Evidence:
        """Return the evidence from a prediction, and from its frame's lattice if that was estimated."""
        atoms = prediction.atoms[prediction.presence >= PRESENT]
        bond, nearest = neighbour_distances(atoms)
        return cls(
            len(atoms), prediction.conditions, len(prediction.foreign), bond, nearest, float(np.mean(atoms.step)),
            math.nan if lattice is None else lattice, math.nan if clarity is None else clarity,
        )  # fmt: skip


def neighbour_distances(atoms: Atoms2D) -> tuple[float, float]:
    """Return how far the three nearest neighbours are on average, and the nearest, in Å: medians over the atoms.

    Atoms at the border, whose neighbours may be outside, do not count. NaN for too few atoms.
    """
    from scipy.spatial import cKDTree

    limit = (np.array(atoms.shape[::-1]) - 1) * np.array(atoms.step[::-1])
    inner = ((atoms.positions > _BORDER) & (atoms.positions < limit - _BORDER)).all(1)
    if inner.sum() < _FEWEST:
        return math.nan, math.nan
    distances = cKDTree(atoms.positions).query(atoms.positions[inner], k=_NEIGHBOURS + 1)[0][:, 1:]
    return float(np.median(distances.mean(1))), float(np.median(distances[:, 0]))


def trust_in(evidence: Evidence, lattice_constant: float = 0.0) -> Trust:
    """Return the verdict on a single frame.

    Parameters
    ----------
    evidence : Evidence
    lattice_constant : float
        Of the model's hexagonal lattice in Å; 0 where it has none to judge by.
    """
    return Judge(lattice_constant).judge(evidence)


class Judge:
    """Judges successive frames with hysteresis: near a limit the verdict stays.

    Parameters
    ----------
    lattice_constant : float
        Of the model's hexagonal lattice in Å; 0 where it has none to judge by.
    """

    def __init__(self, lattice_constant: float = 0.0) -> None:
        self._constant = lattice_constant
        self._subject: Hashable = None
        self._frames: collections.deque[Evidence] = collections.deque(maxlen=_FRAMES)
        self._trust: Trust | None = None

    def judge(self, evidence: Evidence, subject: Hashable = None) -> Trust:
        """Return the verdict on the newest frame, using the preceding ones of the same subject."""
        if subject != self._subject:
            self._subject, self._trust = subject, None
            self._frames.clear()
        self._frames.append(evidence)
        now, lately = self._doubts(evidence), [self._doubts(frame) for frame in self._frames]
        for kind, value in now.items():
            usual = _typical(kind, [doubts[kind] for doubts in lately])
            at_once = kind != "foreign" and value > _AT_ONCE
            if at_once or usual > self._limit(kind):
                self._trust = Trust(kind, _SENTENCES[kind](self._together(), self._constant))
                return self._trust
        self._trust = Trust()
        return self._trust

    def _limit(self, kind: Kind) -> float:
        """Return the threshold of a doubt: higher if the last frames were believed, lower if they were not."""
        if self._trust is None:
            return 1.0
        margin = _MARGIN.get(kind, _USUAL_MARGIN)
        return 1 + margin if self._trust.believed else 1 - margin

    def _doubts(self, evidence: Evidence) -> dict[Kind, float]:
        """Return the strength of each kind of doubt about a frame: 1 is the limit."""
        e, bond = evidence, self._constant / math.sqrt(3)
        off = abs(e.bond / bond - 1) / _BOND if bond else 0.0
        uneven = (1 - e.nearest / e.bond) / _UNEVEN if bond else 0.0
        bonds = max(_known(off), _known(uneven))
        # In a familiar frame correct distances between atoms give the scale better than a few spots of its spectrum.
        proven = math.isfinite(e.bond) and bonds <= 1 and e.conditions <= 1
        asked = e.clarity >= CERTAIN_LATTICE and not proven
        return {
            "lattice": _known(abs(e.lattice / e.sampling - 1) / TOLERANCE if asked else 0.0),
            "unfamiliar": e.conditions,
            "bonds": bonds,
            "nothing": 0.0 if e.atoms else 2.0,
            "foreign": 2.0 if e.foreign else 0.0,
        }

    def _together(self) -> Evidence:
        """Return the newest evidence with numbers smoothed over frames."""
        frames = list(self._frames)
        conditions = float(np.median([frame.conditions for frame in frames]))
        foreign = round(float(np.mean([frame.foreign for frame in frames if frame.foreign] or [0])))
        newest = frames[-1]
        if newest.conditions > _AT_ONCE:
            conditions = newest.conditions
        return dataclasses.replace(newest, conditions=conditions, foreign=foreign)


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _typical(kind: Kind, values: Sequence[float]) -> float:
    """Return one doubt for the last frames, the newest last."""
    if kind in ("lattice", "nothing"):  # the one is asked for seldom, the other is shown as a number
        return values[-1]
    return float(np.mean(values)) if kind == "foreign" else float(np.median(values))


# --- sentences --------------------------------------------------------------------------------------------------------


def _of_lattice(evidence: Evidence, constant: float) -> str:
    from stem_ae.elit.calibrate import HEXAGONAL_LATTICE

    seen = constant * evidence.sampling / evidence.lattice
    others = [name for name, value in HEXAGONAL_LATTICE.items() if abs(seen / value - 1) < _SAME_LATTICE]
    if others:
        name = _NAMES.get(others[0], others[0])
        return (
            f"This looks like {name}: the lattice repeats every {seen:.2f} Å, this model expects {constant:.2f} Å. "
            f"Choose a model for {name}. If the model is right, the sampling is wrong: it would be "
            f"{evidence.lattice:.3f} Å/px, not {evidence.sampling:.3f}."
        )
    return (
        f"The sampling of {evidence.sampling:.3f} Å/px is contradicted by the lattice, which looks like "
        f"{evidence.lattice:.3f} Å/px: correct the sampling, or choose another model if this is another material."
    )


def _of_bonds(evidence: Evidence, constant: float) -> str:
    bond = constant / math.sqrt(3)
    if abs(evidence.bond / bond - 1) > _BOND:
        return (
            f"Neighbours are {evidence.bond:.2f} Å apart, in the material of this model it is {bond:.2f} Å: check the "
            "sampling, or choose another model if this is another material."
        )
    return (
        f"The three nearest neighbours of an atom are {evidence.bond:.2f} Å away on average, but the nearest one "
        f"{evidence.nearest:.2f} Å; in the material of this model all three are {bond:.2f} Å away: choose another "
        "model if this is another material, or check the sampling."
    )


def _of_conditions(evidence: Evidence, constant: float) -> str:
    unlike = f"This frame is unlike what the model knows (novelty {evidence.conditions:.1f}, familiar is up to 1)"
    if evidence.clarity < NO_LATTICE and constant:
        found = "nothing was found" if not evidence.atoms else "the rings may mark noise"
        return f"{unlike} and shows no lattice, so {found}: check that the specimen is in view and in focus."
    check = "check model, sampling and focus" + (", or adapt the model to it" if constant else "")
    if not evidence.atoms:
        return f"No atoms were found. {unlike}: {check}."
    return f"{unlike}: {check}."


def _of_nothing(evidence: Evidence, constant: float) -> str:
    return (
        "No atoms were found: check that the specimen is in view and in focus, and that model and sampling are right."
    )


def _of_foreign(evidence: Evidence, constant: float) -> str:
    columns = "1 column is" if evidence.foreign == 1 else f"{counted(evidence.foreign, 'column')} are"
    return f"{columns} too bright or too dim for any class of this model, perhaps another element."


_SENTENCES = {
    "lattice": _of_lattice, "bonds": _of_bonds, "unfamiliar": _of_conditions, "nothing": _of_nothing,
    "foreign": _of_foreign,
}  # fmt: skip
