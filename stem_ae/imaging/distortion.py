"""What a scan does to an image: every line starts a little elsewhere, and the specimen moves meanwhile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import as_sampling

FloatArray = NDArray[np.float64]


def line_jitter(lines: int, rms: float, rng: np.random.Generator, correlation: float = 0.5) -> FloatArray:
    """Return where each scan line starts, ``(lines,)`` in Å along x.

    Parameters
    ----------
    lines : int
        Number of scan lines.
    rms : float
        Standard deviation in Å.
    rng : numpy.random.Generator
        Source of the random numbers.
    correlation : float
        Between one line and the next (a first-order autoregressive process).
    """
    noise = rng.normal(0.0, rms * np.sqrt(1 - correlation**2), lines)
    shifts = np.empty(lines)
    last = rng.normal(0.0, rms)
    for k in range(lines):
        last = correlation * last + noise[k]
        shifts[k] = last
    return shifts


def drifted(
    xy: FloatArray, velocity: tuple[float, float], line_time_s: float, sampling: float | tuple[float, float]
) -> FloatArray:
    """Return where atoms appear in a frame during which the specimen drifts.

    Parameters
    ----------
    xy : (N, 2) array
        Positions in Å in the image's frame at the start of the frame.
    velocity : (float, float)
        Drift in Å/s, x and y.
    line_time_s : float
        Time per scan line, flyback included.
    sampling : float or (float, float)
        Å per pixel.
    """
    vx, vy = velocity
    dy, _ = as_sampling(sampling)
    # The line at height y is scanned at t = y / dy * line_time; the atom has moved by then, which moves that line.
    time = xy[:, 1] / dy * line_time_s / (1 - vy * line_time_s / dy)
    moved: FloatArray = xy + time[:, None] * np.array([vx, vy])
    return moved
