"""What an ensemble says about one frame."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.elit.preprocess import resample

FloatImage = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """Classes, uncertainty and atoms of one frame.

    Parameters
    ----------
    working_probability : (C, h, w) array
        Mean over the members of the probability of each class, on the networks' grid.
    working_uncertainty : (h, w) array
        Standard deviation over the members, the largest of the classes, on the same grid.
    working_sampling : float
        Å per pixel of that grid.
    atoms : Atoms2D
        What was found, with positions and classes.
    conditions : float
        How far this frame is from what the ensemble knows, foreign atoms left out: up to 1 is familiar.
    foreign : (K, 3) array
        x and y in Å, and the novelty, of the atoms that are too bright or too dim for any class they may be.
    """

    working_probability: FloatImage
    working_uncertainty: FloatImage
    working_sampling: float
    atoms: Atoms2D
    conditions: float
    foreign: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def novelty(self) -> float:
        """How far this frame is from what the ensemble knows, its strangest atom included: up to 1 is familiar."""
        return max(self.conditions, float(self.foreign[:, 2].max(initial=0.0)))

    @functools.cached_property
    def presence(self) -> NDArray[np.float64]:
        """Probability that each atom is there at all, ``(N,)``; see :func:`presence`."""
        return presence(self.working_probability, self.working_sampling, self.atoms)

    @functools.cached_property
    def probability(self) -> FloatImage:
        """Probability of each class per image pixel, ``(C, H, W)``; what is missing to one is background."""
        return np.stack([self._to_image(channel) for channel in self.working_probability])

    @functools.cached_property
    def uncertainty(self) -> FloatImage:
        """Standard deviation over the ensemble per image pixel, ``(H, W)``."""
        return self._to_image(self.working_uncertainty)

    def _to_image(self, channel: FloatImage) -> FloatImage:
        step = self.working_sampling
        return resample(channel, (step, step), self.atoms.shape, self.atoms.sampling)


def presence(probability: FloatImage, working: float, atoms: Atoms2D) -> NDArray[np.float64]:
    """Return the probability that each atom is there at all, ``(N,)``: the height of its peak, whatever the class.

    Parameters
    ----------
    probability : (C, h, w) array
        Of each class, on the networks' grid.
    working : float
        Å per pixel of that grid.
    atoms : Atoms2D
        What was found.
    """
    atomness = np.pad(probability.sum(0), 1, mode="edge")
    column, row = np.rint(atoms.positions / working).astype(int).T + 1
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]  # positions are refined: the peak may be next door
    last = np.array(atomness.shape) - 1
    heights = [atomness[np.clip(row + i, 0, last[0]), np.clip(column + j, 0, last[1])] for i, j in around]
    return np.asarray(np.max(heights, axis=0), dtype=float)
