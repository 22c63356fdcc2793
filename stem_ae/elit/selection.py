"""Which members of an ensemble to trust on a frame: those whose atoms could be atoms.

A network that went wrong in training does not say so; what it draws does. Each member's own atoms are judged by what
any structure obeys: no two of them closer than a bond allows, bonds of one length, as many neighbours as its fellows
see, and as many atoms in the same area. As in the literature on graphene, the length of the bonds is the mean distance
to the nearest neighbours, three for each atom there; the nearest one alone is too near in any noisy frame. Limits are
set by the middle member, plus what counting allows, so that an odd specimen or a noisy frame, which all members see, is
nobody's fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D, as_sampling
from stem_ae.classify import coordination, mean_bonds
from stem_ae.elit.peaks import find_atoms
from stem_ae.elit.preprocess import as_image, repair
from stem_ae.errors import StemAeError
from stem_ae.words import counted

if TYPE_CHECKING:
    from stem_ae.elit.ensemble import Ensemble

FloatArray = NDArray[np.float64]

_TOO_CLOSE = 0.7  # of the usual bond
_ALLOWED = 0.04  # share of the atoms, beyond what the middle member has and counting allows
_BOND = 0.05  # relative difference of the bond length from the middle member's
_FEWEST = 20  # atoms in the middle member's answer, below which there is nothing to judge by


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is thought of one member.

    Attributes
    ----------
    member : int
        Its number in the ensemble, from 0.
    score : float
        0 to 1: the share of its atoms that are plausible, times how close its bond and its density are to the middle
        member's.
    chosen : bool
        Whether it belongs to the artefact-free members.
    reason : str
        Why, in one sentence.
    """

    member: int
    score: float
    chosen: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """The atoms of one member over all frames, in numbers."""

    atoms: int
    distances: FloatArray  # Å, of each atom to its nearest neighbour
    neighbours: NDArray[np.int64]  # of each atom away from the border
    lengths: FloatArray  # Å, of each atom away from the border: the mean distance to its neighbours, NaN without any

    @classmethod
    def of(cls, frames: Sequence[Atoms2D]) -> _Drawing:
        distances, neighbours, lengths = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0)]
        for atoms in frames:
            if len(atoms) < 2:
                continue
            distances.append(cKDTree(atoms.positions).query(atoms.positions, k=2)[0][:, 1])
            count, border = coordination(atoms)
            neighbours.append(count[~border])
            lengths.append(mean_bonds(atoms)[~border])
        return cls(
            sum(map(len, frames)), np.concatenate(distances), np.concatenate(neighbours), np.concatenate(lengths)
        )

    def bond(self, neighbours: int) -> float:
        """Return the mean bond length of the atoms with so many neighbours in Å, 0 if there are none."""
        whole = self.lengths[self.neighbours == neighbours]
        return float(whole.mean()) if len(whole) and neighbours else 0.0


def judge(
    ensemble: Ensemble, frames: ArrayLike | Sequence[ArrayLike], sampling: float | tuple[float, float]
) -> tuple[Verdict, ...]:
    """Judge every member by the atoms that it alone would find.

    Parameters
    ----------
    ensemble : Ensemble
    frames : (H, W) array, or a sequence of them
        Where to look; a few hundred atoms are enough.
    sampling : float or (float, float)
        Å per pixel.

    Raises
    ------
    StemAeError
        If a frame cannot be used, or shows too few atoms to judge by.
    """
    drawings = [_Drawing.of(atoms) for atoms in _atoms_of_members(ensemble, _as_frames(frames), as_sampling(sampling))]
    usual_count = float(np.median([d.atoms for d in drawings]))
    if usual_count < _FEWEST:
        raise StemAeError(
            f"The members find {counted(round(usual_count), 'atom')} here, too few to judge them by: take a frame with "
            f"at least {_FEWEST}, or check the sampling."
        )
    seen = np.concatenate([d.neighbours for d in drawings])
    usual_neighbours = int(np.bincount(seen).argmax()) if len(seen) else 0
    bonds = [d.bond(usual_neighbours) for d in drawings]
    bond = float(np.median([length for length in bonds if length] or [0.0]))
    close = [_share(d.distances < _TOO_CLOSE * bond) for d in drawings]
    odd = [_share(d.neighbours != usual_neighbours) for d in drawings]
    return tuple(
        _verdict(k, d, close, odd, (bonds[k], bond), usual_count, usual_neighbours) for k, d in enumerate(drawings)
    )


def select(
    ensemble: Ensemble, frames: ArrayLike | Sequence[ArrayLike], sampling: float | tuple[float, float]
) -> tuple[Ensemble, tuple[Verdict, ...]]:
    """Return the ensemble of the artefact-free members, and what was thought of each; see :func:`judge`.

    The ensemble itself comes back if all are chosen.
    """
    verdicts = judge(ensemble, frames, sampling)
    chosen = [verdict.member for verdict in verdicts if verdict.chosen]
    return (ensemble if len(chosen) == len(ensemble) else ensemble.subset(chosen)), verdicts


def _verdict(
    k: int,
    drawing: _Drawing,
    close: Sequence[float],
    odd: Sequence[float],
    bonds: tuple[float, float],
    usual_count: float,
    usual_neighbours: int,
) -> Verdict:
    """Return the verdict on member ``k``, given the shares of close and odd atoms of all members.

    ``bonds`` are the length of its bonds and of the middle member's.
    """
    count = drawing.atoms
    own, bond = bonds
    stretch = own / bond if bond else 1.0
    density = count / usual_count
    score = (1 - close[k]) * (1 - odd[k]) * min(stretch, 1 / max(stretch, 1e-9)) * min(density, 1 / max(density, 1e-9))
    if abs(density - 1) > _limit(0.0, usual_count):
        reason = f"It finds {counted(count, 'atom')} where the middle member finds {usual_count:.0f}."
    elif close[k] > _limit(float(np.median(close)), count):
        reason = f"{close[k]:.1%} of its atoms are closer to another than {_TOO_CLOSE * bond:.2f} Å: no bond is."
    elif abs(stretch - 1) > _BOND:
        reason = f"Its bonds are {own:.3f} Å long, those of the middle member {bond:.3f} Å."
    elif odd[k] > _limit(float(np.median(odd)), len(drawing.neighbours)):
        reason = (
            f"{odd[k]:.1%} of its atoms have not {usual_neighbours} neighbours; with the middle member it is "
            f"{np.median(odd):.1%}."
        )
    else:
        reason = (
            f"{counted(count, 'atom')}, bonds of {own:.3f} Å (mean of {usual_neighbours} at each), {1 - odd[k]:.1%} "
            f"with {usual_neighbours} neighbours."
        )
        return Verdict(k, score, True, reason)
    return Verdict(k, score, False, reason)


def _limit(usual: float, count: float) -> float:
    """Return the share that a member may have where the middle one has ``usual``: counting errs too."""
    n = max(count, 1.0)
    return usual + _ALLOWED + 3 * float(np.sqrt(max(usual * (1 - usual), 1 / n) / n))


def _share(those: NDArray[np.bool_]) -> float:
    return float(those.mean()) if len(those) else 1.0


def _as_frames(frames: ArrayLike | Sequence[ArrayLike]) -> list[ArrayLike]:
    if isinstance(frames, Sequence):
        return list(frames)
    array = np.asarray(frames)
    return list(array) if array.ndim == 3 else [array]


def _atoms_of_members(
    ensemble: Ensemble, frames: Sequence[ArrayLike], step: tuple[float, float]
) -> list[list[Atoms2D]]:
    """Return what each member finds in each frame."""
    found: list[list[Atoms2D]] = [[] for _ in range(len(ensemble))]
    for frame in frames:
        image = repair(as_image(frame))
        probability = ensemble.member_probabilities(ensemble.seen(image, step))
        for atoms, member in zip(found, probability, strict=True):
            atoms.append(find_atoms(member[1:], ensemble.species, ensemble.sampling, image, step, 0.5))
    return found
