"""The Cramér–Rao bound: how well positions can be known from the electrons that were counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import as_sampling

FloatArray = NDArray[np.float64]


def joint_position_bound(
    xy: FloatArray,
    weights: FloatArray,
    background: float,
    shape: tuple[int, int],
    sampling: float | tuple[float, float],
    sigma: float,
    electrons: float,
) -> FloatArray:
    """Return the smallest covariance that an unbiased estimate of each position can have.

    The image is ``electrons * (background + sum_i w_i g(r - r_i))`` with a round Gaussian probe ``g``, counts are
    Poisson distributed, and all positions, all weights and the background are unknown together: the inverse of the
    Fisher information ``J^T diag(1/mu) J`` (Van Aert et al., Ultramicroscopy 104 (2005) 83).

    Parameters
    ----------
    xy : (N, 2) array
        Positions in Å in the image's frame; N up to some hundreds.
    weights : (N,) array
        Cross sections in Å².
    background : float
        Fraction of the beam that is detected everywhere.
    shape : (int, int)
        ``(H, W)`` in pixels.
    sampling : float or (float, float)
        Å per pixel.
    sigma : float
        Standard deviation of the probe in Å.
    electrons : float
        Electrons per pixel.

    Returns
    -------
    (N, 2, 2) array
        Å²; infinite for atoms outside the frame.
    """
    dy, dx = as_sampling(sampling)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    pixels = np.column_stack([columns.ravel() * dx, rows.ravel() * dy])
    n = len(xy)
    derivative = np.empty((len(pixels), 3 * n + 1))
    derivative[:, -1] = 1.0
    for k in range(n):
        away = pixels - xy[k]
        g = np.exp(-(away**2).sum(1) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        derivative[:, 3 * k : 3 * k + 2] = weights[k] * g[:, None] * away / sigma**2
        derivative[:, 3 * k + 2] = g
    mean = background + derivative[:, 2:-1:3] @ weights
    fisher = electrons * derivative.T @ (derivative / mean[:, None])
    scale = np.sqrt(np.diag(fisher))
    scale[scale == 0] = 1.0
    inverse = np.linalg.pinv(fisher / np.outer(scale, scale), hermitian=True) / np.outer(scale, scale)
    bound = np.stack([inverse[3 * k : 3 * k + 2, 3 * k : 3 * k + 2] for k in range(n)])
    inside = np.all((xy >= 0) & (xy <= np.array([(shape[1] - 1) * dx, (shape[0] - 1) * dy])), axis=1)
    bound[~inside] = np.inf
    return bound
