"""Line jitter: how far each scan line was shifted, told from the lattice and from the lines themselves.

A line that starts a little to the right shows every atom on it a little to the left, all of them together. The atoms of
a honeycomb are numbered along their bonds, and a lattice is laid through them that may bend slowly; how far off it they
lie along y, where lines cannot shift, says how exactly atoms keep to it. What the atoms of one height share along x is
jitter: a Gaussian process of the height, whose strength and correlation are those of the greatest marginal likelihood.
Without clear evidence nothing is done.

That much is told by positions, each of which averages over the lines of an atom. Then the lines are looked at one by
one: with the atoms where they are then thought to be, every line's own shift is a least-squares fit to its pixels, and
with the lines in place the atoms are fitted again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import cho_factor, cho_solve, toeplitz
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from stem_ae.elit.likelihood import Fit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SPACING = 0.3  # Å between the heights at which shifts are known: an atom averages over about twice that
_BLUR = 0.35  # Å: over which a fitted position averages the shifts of its lines
_NETWORK_BLUR = 0.6  # Å: the same for the networks' positions
_STRENGTHS = (0.02, 0.035, 0.06, 0.1, 0.17)  # Å RMS
_LENGTHS = (0.3, 0.9)  # Å over which shifts are correlated
_LINE_LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)  # Å, the same for single lines
_EVIDENCE = 8.0  # of the logarithm of the marginal likelihood, before anything is corrected
_FEWEST = 100  # atoms on the lattice
_BENDING = 0.05  # Å RMS that the lattice may bend along y; along x it is then expected to bend as much
_LEAST_BENDING = 0.005  # Å
_SHORTEST_BEND = 16.0  # Å: the shortest wave of the bending
_STRAY = 4.0  # standard deviations from the lattice beyond which an atom says nothing
_ROUNDS = 2  # of lines and atoms in turn
_TURN = np.deg2rad(14)  # a bond may be turned by this much from its direction in the lattice

# One bond changes an atom's number by one of these, in the order of the bonds' directions.
_STEPS = np.array([[1, 0], [1, 1], [0, 1], [-1, 0], [-1, -1], [0, -1]])


@dataclasses.dataclass(frozen=True, eq=False)
class Jitter:
    """Shifts of the scan lines, at heights ``_SPACING`` apart from y = 0.

    Attributes
    ----------
    values : (K,) array
        Å along x by which atoms appear too far right.
    covariance : (K, K) array
        Of these, in Å².
    """

    values: FloatArray
    covariance: FloatArray

    def at(self, height: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return shift and variance ``(N,)`` at some heights in Å."""
        weights = _interpolation(np.clip(height / _SPACING, 0, len(self.values) - 1), len(self.values))
        return weights @ self.values, np.asarray((weights @ self.covariance * weights.toarray()).sum(1)).ravel()


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
    jitter = estimate(positions, covariance)
    if jitter is None:
        return np.zeros(len(positions)), np.zeros(len(positions))
    return jitter.at(positions[:, 1])


Combine = Callable[[Fit, FloatArray], tuple[FloatArray, FloatArray]]
"""Given a fit and the shift of each atom (Å) that it has been freed of, returns positions and covariance."""


def without_jitter(fitted: Fit, combine: Combine) -> tuple[Fit, FloatArray, FloatArray]:
    """Return a fit, its atoms' positions ``(N, 2)`` and covariance ``(N, 2, 2)`` with line jitter taken off.

    Parameters
    ----------
    fitted : Fit
        Of the frame as it was scanned.
    combine : callable
        See :data:`Combine`.
    """
    positions, covariance = combine(fitted, np.zeros(len(fitted.positions)))
    jitter = estimate(positions, covariance)
    if jitter is None:
        return fitted, positions, covariance
    height = fitted.heights
    shifts = jitter.at(height)[0]
    shift, variance = jitter.at(positions[:, 1])
    positions[:, 0] -= shift
    step = float(height[1] - height[0])
    for _ in range(_ROUNDS):
        offset, unsure = fitted.lines_with(positions, shifts)
        shifts = _smoothed(height, shifts + offset, unsure)
        fitted = fitted.refitted(positions, shifts)
        seen = ndimage.gaussian_filter1d(shifts, _NETWORK_BLUR / step, mode="nearest")
        positions, covariance = combine(fitted, np.interp(positions[:, 1], height, seen))
    covariance[:, 0, 0] += variance
    return fitted, positions, covariance


def estimate(positions: FloatArray, covariance: FloatArray) -> Jitter | None:
    """Return the jitter that the positions show, or None if there is no evidence of any.

    See :func:`line_shifts` for the arguments.
    """
    if len(positions) < _FEWEST:
        return None
    atoms, number = _numbered(positions)
    if len(atoms) < max(_FEWEST, 0.5 * len(positions)):
        return None
    xy, own = positions[atoms], np.diagonal(covariance[atoms], axis1=1, axis2=2)
    own = np.where(np.isfinite(own) & (own > 0), own, 1.0)
    lattice = np.column_stack([np.ones(len(atoms)), (number - number.mean(0)) / 10])
    xy = xy - lattice @ np.linalg.lstsq(lattice, xy, rcond=None)[0]
    bending = _waves(positions[atoms])
    smooth = np.column_stack([lattice, bending])
    prior = np.concatenate([np.ones(3), np.full(bending.shape[1], bending.shape[1] / _BENDING**2)])
    off_y, near_y, bent = _off_lattice(xy[:, 1], smooth, prior, own[:, 1])
    prior[3:] = bending.shape[1] / max(bent, _LEAST_BENDING) ** 2
    static = max(float(np.median(off_y[near_y] ** 2)) / 0.4549 - float(np.median(own[:, 1])), 0.0)
    near_x = _off_lattice(xy[:, 0], smooth, prior, own[:, 0])[1]
    keep = near_x & near_y
    weight = keep / (own[:, 0] + static)
    nodes = int(np.ceil(positions[:, 1].max() / _SPACING)) + 2
    at = _interpolation(positions[atoms, 1] / _SPACING, nodes)
    # What the lattice's shape does not explain: the shape is eliminated from the normal equations.
    weighted = smooth * weight[:, None]
    shape = cho_factor(weighted.T @ smooth + np.diag(prior))
    mixed = at.T @ weighted
    pull_shape = weighted.T @ xy[:, 0]
    information = (at.T @ at.multiply(weight[:, None])).toarray() - mixed @ cho_solve(shape, mixed.T)
    pull = at.T @ (weight * xy[:, 0]) - mixed @ cho_solve(shape, pull_shape)
    best, chosen = _EVIDENCE, None
    for length, strength in itertools.product(_LENGTHS, _STRENGTHS):
        inverse_prior, log_determinant = _prior(nodes, length)
        factor = cho_factor(information + inverse_prior / strength**2)
        gained = 0.5 * float(pull @ cho_solve(factor, pull)) - float(np.log(np.diag(factor[0])).sum())
        gained -= 0.5 * (log_determinant + 2 * nodes * np.log(strength))
        if gained > best:
            best, chosen = gained, factor
    if chosen is None:
        return None
    return Jitter(cho_solve(chosen, pull), cho_solve(chosen, np.eye(nodes)))


# --- the lattice ------------------------------------------------------------------------------------------------------


def _numbered(positions: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the atoms of the largest grain, and their numbers ``(n, 2)`` along two of the bonds."""
    n = len(positions)
    distance, near = (array[:, 1:] for array in cKDTree(positions).query(positions, k=4))
    start, end = np.repeat(np.arange(n), 3), near.ravel()
    arm = positions[end] - positions[start]
    angle = np.arctan2(arm[:, 1], arm[:, 0])
    turn = angle - np.angle(np.exp(6j * angle).sum()) / 6
    sixth = np.rint(turn / (np.pi / 3))
    bond = np.abs(distance.ravel() / np.median(distance) - 1) < 0.25
    bond &= np.abs(turn - sixth * np.pi / 3) < _TURN
    start, end, direction = start[bond], end[bond], sixth[bond].astype(np.int64) % 6
    # Each bond both ways: the direction plus one, so that none is zero.
    there = csr_matrix((direction + 1, (start, end)), (n, n))
    back = csr_matrix(((direction + 3) % 6 + 1, (end, start)), (n, n))
    bonds = there.maximum(back)
    grain = connected_components(bonds, directed=False)[1]
    members = np.flatnonzero(grain == np.bincount(grain).argmax())
    middle = members[np.argmin(((positions[members] - positions[members].mean(0)) ** 2).sum(1))]
    order, before = breadth_first_order(bonds, middle, directed=False)
    before = np.where(before < 0, np.arange(n), before)
    code = np.asarray(bonds[before, np.arange(n)]).ravel().astype(np.int64)
    number = np.where((code > 0)[:, None], _STEPS[code - 1], 0)
    for _ in range(int(np.ceil(np.log2(n))) + 1):  # the sum of the steps from the middle, doubling the way each time
        number = number + number[before] * (before != before[before])[:, None]
        before = before[before]
    return order.astype(np.int64), number[order]


def _waves(xy: FloatArray) -> FloatArray:
    """Return slow waves over the frame at the atoms ``(n, W)``: how a lattice may bend."""
    size = float(np.ptp(xy, axis=0).max()) + _SHORTEST_BEND / 4
    most = int(2 * size / _SHORTEST_BEND)
    x, y = (np.cos(np.pi * np.arange(most + 1) * u[:, None] / size) for u in (xy - xy.min(0)).T)
    pairs = [(a, b) for a in range(most + 1) for b in range(most + 1) if 0 < np.hypot(a, b) <= most]
    return np.column_stack([2 * x[:, a] * y[:, b] for a, b in pairs]) if pairs else np.zeros((len(xy), 0))


def _off_lattice(
    values: FloatArray, smooth: FloatArray, prior: FloatArray, variance: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_], float]:
    """Return how far coordinates lie off the bent lattice, which of them belong to it, and its bending, RMS in Å."""
    keep = np.ones(len(values), bool)
    for _ in range(2):
        weight = keep / (variance + float(np.median(variance)))
        weighted = smooth * weight[:, None]
        solution = cho_solve(cho_factor(weighted.T @ smooth + np.diag(prior)), weighted.T @ values)
        off = values - smooth @ solution
        keep = np.abs(off) < _STRAY * 1.4826 * np.median(np.abs(off))
    return off, keep, float((smooth[:, 3:] @ solution[3:]).std())


# --- Gaussian processes of the height ---------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _prior(nodes: int, length: float) -> tuple[FloatArray, float]:
    """Return the inverse of the covariance of shifts of unit strength as atoms see them, and its log determinant.

    Exponential, averaged over the lines of an atom.
    """
    k = np.arange(0.005, 12.0, 0.01)  # 1/Å, angular
    density = 2 * length / (1 + (k * length) ** 2) * np.exp(-((k * _BLUR) ** 2))
    row = 0.01 / np.pi * np.cos(np.arange(nodes)[:, None] * _SPACING * k) @ density
    prior = toeplitz(row) + 1e-4 * np.eye(nodes)
    return np.linalg.inv(prior), float(np.linalg.slogdet(prior)[1])


def _smoothed(height: FloatArray, shifts: FloatArray, variance: FloatArray) -> FloatArray:
    """Return the shifts of single lines ``(L,)``, given each with its variance, as a Gaussian process says."""
    distance = np.abs(height[:, None] - height[None, :])
    strength2 = max(float(np.mean(shifts**2)) - float(np.median(variance)), 1e-5)
    best, result = -np.inf, shifts
    for length in _LINE_LENGTHS:
        prior = strength2 * np.exp(-distance / length)
        factor = cho_factor(prior + np.diag(variance + 1e-8))
        solved = cho_solve(factor, shifts)
        likely = -0.5 * float(shifts @ solved) - float(np.log(np.diag(factor[0])).sum())
        if likely > best:
            best, result = likely, prior @ solved
    return result


def _interpolation(height: FloatArray, nodes: int) -> csr_matrix:
    """Return the weights ``(N, nodes)`` of linear interpolation at heights in units of the spacing."""
    low = np.clip(np.floor(height).astype(np.int64), 0, nodes - 2)
    above = height - low
    row = np.arange(len(height))
    entries = np.concatenate([1 - above, above]), (np.concatenate([row, row]), np.concatenate([low, low + 1]))
    return csr_matrix(entries, (len(height), nodes))
