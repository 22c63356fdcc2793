"""The width of the columns of an image in pixels, with alternatives."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_RIVAL = 0.2  # of the best width's probability, from which on another one is as good


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """Probabilities of the width of an image's columns.

    Attributes
    ----------
    widths : (K,) array
        Standard deviations in pixels.
    probability : (K,) array
        Of each; they sum to one.
    """

    widths: FloatArray
    probability: FloatArray

    @property
    def width(self) -> float:
        """Most probable width in pixels, interpolated between the tabulated widths."""
        return self._refined(int(self.probability.argmax()))

    @property
    def candidates(self) -> list[float]:
        """All widths in pixels that are about as probable as the best one, with the best one first."""
        p = np.pad(self.probability, 1)
        peaks = np.flatnonzero((p[1:-1] >= p[:-2]) & (p[1:-1] > p[2:]) & (p[1:-1] > _RIVAL * p.max()))
        return [self._refined(int(k)) for k in peaks[np.argsort(-self.probability[peaks])]]

    def within(self, low: float, high: float) -> Scale:
        """Return the same, restricted to widths between two numbers of pixels."""
        inside = (self.widths >= low) & (self.widths <= high)
        probability = self.probability * inside
        if probability.sum() < 1e-12:
            nearest = int(np.abs(np.log(self.widths / np.sqrt(low * high))).argmin())
            probability = (np.arange(len(self.widths)) == nearest).astype(float)
        return Scale(self.widths, probability / probability.sum())

    def _refined(self, k: int) -> float:
        near = slice(max(k - 2, 0), k + 3)
        weight = self.probability[near]
        return float(np.exp((np.log(self.widths[near]) * weight).sum() / weight.sum()))
