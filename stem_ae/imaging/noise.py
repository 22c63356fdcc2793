"""Detection: from the expected fraction of the beam to counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def detect(
    fraction: NDArray[np.float64],
    electrons: float,
    rng: np.random.Generator,
    background: float | NDArray[np.float64] = 0.0,
    readout: float = 0.0,
) -> NDArray[np.float64]:
    """Return detected electrons per pixel.

    Parameters
    ----------
    fraction : (H, W) array
        Expected fraction of the beam that reaches the detector.
    electrons : float
        Electrons per pixel in the beam.
    rng : numpy.random.Generator
        Source of the Poisson and Gaussian numbers.
    background : float or (H, W) array
        Fraction of the beam that reaches the detector whatever the specimen.
    readout : float
        Standard deviation of the detector's own noise, in electrons per pixel.
    """
    counts = rng.poisson(electrons * (fraction + background)).astype(float)
    if readout:
        counts += rng.normal(0.0, readout, counts.shape)
    return counts
