"""Line jitter: how far each scan line was shifted, told from the lattice.

A line that starts a little to the right shows every atom on it a little to the left, all of them together. Where the
lattice is regular, an atom lies at the mean of its three neighbours; the part of its distance from there that it shares
with all other atoms at the same height is jitter. The shifts are a Gaussian process of the height, whose strength and
correlation are those of the greatest marginal likelihood; without clear evidence nothing is done.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]

_SPACING = 0.3  # Å between the heights at which shifts are known: an atom averages over about twice that
_STRENGTHS = (0.02, 0.03, 0.045, 0.07, 0.1, 0.15)  # Å RMS
_LENGTHS = (0.4, 0.8)  # Å over which shifts are correlated: an atom's own width, and slow jitter
_STATIC = 0.03  # Å: what regular atoms are displaced anyway
_EVIDENCE = 8.0  # of the logarithm of the marginal likelihood, before anything is corrected
_FEWEST = 100  # regular atoms


def line_shifts(positions: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Estimate the jitter at each atom.

    Parameters
    ----------
    positions : (N, 2) array
        Apparent positions in Å.
    covariance : (N, 2, 2) array
        Of these positions, in Å².

    Returns
    -------
    shift : (N,) array
        Å along x to take off each atom's position; zero if there is no evidence of jitter.
    variance : (N,) array
        What is not known of it, in Å².
    """
    nothing = np.zeros(len(positions)), np.zeros(len(positions))
    regular, neighbours = _regular(positions)
    if len(regular) < _FEWEST:
        return nothing
    height = positions[:, 1] / _SPACING
    nodes = int(np.ceil(height.max())) + 2
    at = _interpolation(height, nodes)
    difference = positions[regular, 0] - positions[neighbours, 0].mean(1)
    design = at[regular] - at[neighbours].mean(1)
    own = covariance[:, 0, 0] + _STATIC**2
    noise = own[regular] + own[neighbours].sum(1) / 9
    # Everything that the data say, once: the candidates only differ in their priors.
    information = (design / noise[:, None]).T @ design
    pull = design.T @ (difference / noise)
    best, chosen = _EVIDENCE, None
    for strength, length in itertools.product(_STRENGTHS, _LENGTHS):
        inverse_prior, log_determinant = _prior(nodes, strength, length)
        factor = cho_factor(inverse_prior + information)
        gained = 0.5 * float(pull @ cho_solve(factor, pull))
        gained -= float(np.log(np.diag(factor[0])).sum()) + 0.5 * log_determinant
        if gained > best:
            best, chosen = gained, factor
    if chosen is None:
        return nothing
    spread = cho_solve(chosen, np.eye(nodes))
    return at @ (spread @ pull), ((at @ spread) * at).sum(1)


@functools.lru_cache(maxsize=64)
def _prior(nodes: int, strength: float, length: float) -> tuple[FloatArray, float]:
    """Return the inverse of the shifts' prior covariance, and the logarithm of the covariance's determinant."""
    distance = np.abs(np.arange(nodes)[:, None] - np.arange(nodes)[None, :]) * _SPACING
    prior = strength**2 * np.exp(-distance / length)
    return np.linalg.inv(prior), float(np.linalg.slogdet(prior)[1])


def _regular(positions: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the atoms that three neighbours surround evenly, and those neighbours ``(R, 3)``."""
    if len(positions) < _FEWEST:
        return np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    distance, near = cKDTree(positions).query(positions, k=4)
    distance, near = distance[:, 1:], near[:, 1:]
    arms = positions[near] - positions[:, None]
    angle = np.sort(np.arctan2(arms[..., 1], arms[..., 0]), axis=1)
    gaps = np.diff(np.column_stack([angle, angle[:, 0] + 2 * np.pi]), axis=1)
    even = (np.abs(distance / np.median(distance) - 1).max(1) < 0.25) & (np.abs(gaps - 2 * np.pi / 3).max(1) < 0.5)
    return np.flatnonzero(even), near[even]


def _interpolation(height: FloatArray, nodes: int) -> FloatArray:
    """Return the weights ``(N, nodes)`` of linear interpolation."""
    weights: FloatArray = np.clip(1 - np.abs(height[:, None] - np.arange(nodes)), 0, None)
    return weights
