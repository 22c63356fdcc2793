"""What an ensemble says about one frame."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.elit.preprocess import resample
from stem_ae.elit.scale import Scale

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
        Å per pixel of that grid (pixels of the image per pixel of that grid where the sampling is not known).
    atoms : Atoms2D
        What was found, with positions and classes.
    conditions : float
        How far this frame is from what the ensemble knows, foreign atoms left out: up to 1 is familiar.
    foreign : (K, 3) array
        x and y in Å, and the novelty, of the atoms that are too bright or too dim for any class they may be.
    width : float
        Standard deviation of the columns, in the unit of the positions; 0 where the model does not read it.
    judged : (N,) array, optional
        Probability that each atom is there, where more than the height of its peak speaks for it.
    scale : Scale, optional
        What such a model has read of it: rival widths too.
    """

    working_probability: FloatImage
    working_uncertainty: FloatImage
    working_sampling: float
    atoms: Atoms2D
    conditions: float
    foreign: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    width: float = 0.0
    scale: Scale | None = None
    judged: NDArray[np.float64] | None = None

    def brighter(self, unit: float) -> Prediction:
        """Return the same for an image whose numbers are ``unit`` times as large."""
        return dataclasses.replace(self, atoms=dataclasses.replace(self.atoms, intensity=self.atoms.intensity * unit))

    def rescaled(
        self, unit: float, sampling: tuple[float, float] | None, scale: Scale, width: float
    ) -> Prediction:
        """Return the same in another unit of length, which is ``unit`` times smaller than the present one.

        Parameters
        ----------
        unit : float
            The present unit, in the new one.
        sampling : (float, float) or None
            Å per pixel, if the new unit is Å; None: it is the pixel.
        scale : Scale
            What was read of the columns' width.
        width : float
            Width of the columns in the new unit.
        """
        atoms = dataclasses.replace(
            self.atoms, positions=self.atoms.positions * unit, covariance=self.atoms.covariance * unit**2,
            intensity=self.atoms.intensity * unit**2, sampling=sampling,
        )  # fmt: skip
        return dataclasses.replace(
            self, working_sampling=self.working_sampling * unit, atoms=atoms, foreign=self.foreign * [unit, unit, 1.0],
            scale=scale, width=width,
        )  # fmt: skip

    @property
    def novelty(self) -> float:
        """How far this frame is from what the ensemble knows, its strangest atom included: up to 1 is familiar."""
        return max(self.conditions, float(self.foreign[:, 2].max(initial=0.0)))

    @functools.cached_property
    def presence(self) -> NDArray[np.float64]:
        """Probability that each atom is there at all, ``(N,)``; see :func:`presence`."""
        if self.judged is not None:
            return self.judged
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
        return resample(channel, (step, step), self.atoms.shape, self.atoms.step)


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
