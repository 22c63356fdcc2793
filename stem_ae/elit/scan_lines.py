"""Line jitter: how far each scan line was shifted, told from the lattice and from the lines themselves.

A line that starts a little to the right shows every atom on it a little to the left, all of them together. The atoms of
a honeycomb are numbered along their bonds, and a lattice is laid through them that may bend slowly; how far off it they
lie along y, where lines cannot shift, says how exactly atoms keep to it. What the atoms of one height share along x is
jitter: a Gaussian process of the height, whose strength and correlation are those of the greatest marginal likelihood.
Without clear evidence nothing is done.

That much is told by positions, each of which averages over the lines of an atom. Then everything that moves along x
is solved together: the atoms, each line of the image, and the lattice's shape. An atom that is off its site is shifted
as a whole, while lines that are shifted shear it as well: so even slow waves of the jitter are told from a lattice that
bends. What stays unknown is above all a constant and a slope, which may belong to either.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import block_diag, cho_factor, cho_solve, cho_solve_banded, cholesky_banded, toeplitz
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from stem_ae.elit.likelihood import Equations, Fit

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
_USUAL_SCATTER, _LEAST_SCATTER = 0.03, 0.005  # Å RMS: what atoms are off the bent lattice
_SHARES = (0.7, 1.0, 1.5)  # of the variance of shifts, to choose from
_LEAST_STRENGTH = 0.003  # Å
_FARTHEST = 0.15  # Å that atoms move in one round
_STRAY = 4.0  # standard deviations from the lattice beyond which an atom says nothing
_ROUNDS = 2  # in which the residual is looked at
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
    shifts, unsure = jitter.at(height)
    positions[:, 0] -= jitter.at(positions[:, 1])[0]
    together = _Together.of(fitted.equations(positions, shifts), _Lattice.through(positions), height)
    for _ in range(_ROUNDS):
        shifts, unknown, moves = together.solved(fitted.pulls(positions, shifts), positions, shifts, unsure)
        unsure = np.diag(unknown)
        positions[:, 0] += np.clip(moves, -_FARTHEST, _FARTHEST)
    fitted = fitted.refitted(positions, shifts)
    blurred = ndimage.gaussian_filter1d(shifts, _NETWORK_BLUR / float(height[1] - height[0]), mode="nearest")
    positions, covariance = combine(fitted, np.interp(positions[:, 1], height, blurred))
    # What an atom shows of the lines: the square of its slope.
    seen = np.exp(-(((positions[:, 1:] - height) / fitted.sigma) ** 2))
    seen /= seen.sum(1, keepdims=True)
    covariance[:, 0, 0] += ((seen @ unknown) * seen).sum(1)
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
    own = np.diagonal(covariance[atoms], axis1=1, axis2=2)
    own = np.where(np.isfinite(own) & (own > 0), own, 1.0)
    _, xy, smooth, prior = _laid(positions, (atoms, number))
    off_y, near_y, bent = _off_lattice(xy[:, 1], smooth, prior, own[:, 1])
    prior = _bending(prior, bent)
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


# --- atoms, lines and lattice together --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Lattice:
    """Where a lattice has the atoms along x, but for how it bends, and how exactly they keep to it."""

    ideal: FloatArray  # (N,) Å
    smooth: FloatArray  # (N, K) how it may be moved, stretched, sheared and bent
    prior: FloatArray  # (K,) 1/Å²: how much of each is expected
    known: FloatArray  # (N,) 1/Å² about each atom; zero for those that do not belong to it

    @classmethod
    def through(cls, positions: FloatArray) -> _Lattice:
        """Lay a lattice through positions ``(N, 2)`` in Å; along y shows how it bends and how far off it they are."""
        n = len(positions)
        atoms, off, shape, prior = _laid(positions, _numbered(positions))
        off_y, near, bent = _off_lattice(off[:, 1], shape, prior, np.full(len(atoms), _USUAL_SCATTER**2))
        scatter2 = max(float(np.median(off_y[near] ** 2)) / 0.4549, _LEAST_SCATTER**2)
        ideal, smooth, known = positions[:, 0].copy(), np.zeros((n, shape.shape[1])), np.zeros(n)
        ideal[atoms] -= off[:, 0]
        smooth[atoms], known[atoms] = shape, near / scatter2
        return cls(ideal, smooth, _bending(prior, bent), known)


@dataclasses.dataclass(frozen=True, eq=False)
class _Together:
    """Atoms, lines and the lattice's shape: everything that moves along x, solved together.

    The atoms are eliminated first, then the shape; what is left is about the lines.
    """

    equations: Equations
    lattice: _Lattice
    step: float  # Å between lines
    band: tuple[FloatArray, bool]  # Cholesky factor of the atoms' equations, sorted by height
    order: IntArray
    response: FloatArray  # (M, L + 1 + K) of the atoms to lines, shear and shape
    shape: tuple[FloatArray, bool]  # Cholesky factor of the equations of shear and shape
    cross: FloatArray  # (1 + K, L) of shear and shape with the lines
    information: FloatArray  # (L, L) about the lines

    @classmethod
    def of(cls, equations: Equations, lattice: _Lattice, height: FloatArray) -> _Together:
        order = np.argsort(equations.heights)
        known = np.append(lattice.known, np.zeros(len(order) - len(lattice.known)))
        band = cholesky_banded(_banded(equations.atoms, order, known), lower=True), True
        n, lines = len(lattice.known), len(height)
        mixed = np.zeros((len(order), equations.both.shape[1] + len(lattice.prior)))
        mixed[:, : lines + 1] = equations.both.toarray()
        mixed[:n, lines + 1 :] = -lattice.known[:, None] * lattice.smooth
        response = np.empty_like(mixed)
        response[order] = cho_solve_banded(band, mixed[order])
        stiff = lattice.smooth.T @ (lattice.known[:, None] * lattice.smooth) + np.diag(lattice.prior)
        matrix = block_diag(equations.lines, stiff) - mixed.T @ response
        shape, cross = cho_factor(matrix[lines:, lines:]), matrix[lines:, :lines]
        information = matrix[:lines, :lines] - cross.T @ cho_solve(shape, cross)
        step = float(height[1] - height[0])
        return cls(equations, lattice, step, band, order, response, shape, cross, information)

    def solved(
        self, pulls: tuple[FloatArray, FloatArray], positions: FloatArray, shifts: FloatArray, unsure: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the lines' shifts ``(L,)`` in Å, their covariance, and by how much to move the atoms ``(N,)``.

        The strength and the correlation of the jitter are those under which all this is most likely.
        """
        n, lines = len(positions), len(shifts)
        off = self.lattice.known * (positions[:, 0] - self.lattice.ideal)
        atoms, lines_and_shear = (pull / self.equations.excess for pull in pulls)
        both = np.append(lines_and_shear, self.lattice.smooth.T @ off)
        atoms[:n] -= off
        moved = np.empty_like(atoms)
        moved[self.order] = cho_solve_banded(self.band, atoms[self.order])
        both -= self.response.T @ atoms
        right = both[:lines] - self.cross.T @ cho_solve(self.shape, both[lines:]) + self.information @ shifts
        strength2 = max(float(np.mean(shifts**2 + unsure)), _LEAST_STRENGTH**2)
        found = []
        for length, share in itertools.product(_LINE_LENGTHS, _SHARES):
            inverse_prior, log_determinant = _exponential(lines, self.step / length, share * strength2)
            factor = cho_factor(self.information + inverse_prior)
            solution = cho_solve(factor, right)
            evidence = 0.5 * float(right @ solution - log_determinant) - float(np.log(np.diag(factor[0])).sum())
            found.append((evidence, solution, factor))
        _, solution, factor = max(found, key=lambda candidate: candidate[0])
        change = solution - shifts
        rest = cho_solve(self.shape, both[lines:] - self.cross @ change)
        moves = moved - self.response @ np.concatenate([change, rest])
        return solution, cho_solve(factor, np.eye(lines)), moves[:n]


def _banded(matrix: csr_matrix, order: IntArray, more: FloatArray) -> FloatArray:
    """Return the lower half of a matrix in bands, sorted, with more on its diagonal."""
    place = np.argsort(order)
    entries = matrix.tocoo()
    row, column = place[entries.row], place[entries.col]
    lower = row >= column
    band = np.zeros((int((row - column).max()) + 1, len(order)))
    band[(row - column)[lower], column[lower]] = entries.data[lower]
    band[0] += more[order] + 1e-6 * band[0].mean()
    return band


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


def _laid(
    positions: FloatArray, numbered: tuple[IntArray, IntArray]
) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
    """Lay a straight lattice through numbered atoms.

    Returns
    -------
    atoms : (n,) array
        Those that are numbered.
    off : (n, 2) array
        Å by which they are off it.
    smooth : (n, K) array
        How it may be moved, stretched and sheared, in the first three columns, and bent.
    prior : (K,) array
        1/Å²: how much of each is expected.
    """
    atoms, number = numbered
    straight = np.column_stack([np.ones(len(atoms)), (number - number.mean(0)) / 10])
    off = positions[atoms] - straight @ np.linalg.lstsq(straight, positions[atoms], rcond=None)[0]
    smooth = np.column_stack([straight, _waves(positions[atoms])])
    return atoms, off, smooth, _bending(np.ones(smooth.shape[1]), _BENDING)


def _bending(prior: FloatArray, bent: float) -> FloatArray:
    """Return the prior of a lattice that bends by so much, RMS in Å."""
    waves = len(prior) - 3
    return np.append(prior[:3], np.full(waves, waves / max(bent, _LEAST_BENDING) ** 2))


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


def _exponential(n: int, ratio: float, strength2: float) -> tuple[FloatArray, float]:
    """Return the inverse of the covariance ``strength2 * exp(-ratio * |i - j|)``, and its log determinant."""
    near = np.exp(-ratio)
    inner = np.full(n, 1 + near**2)
    inner[[0, -1]] = 1.0
    beside = np.full(n - 1, -near)
    inverse = (np.diag(inner) + np.diag(beside, 1) + np.diag(beside, -1)) / (strength2 * (1 - near**2))
    return inverse, float(n * np.log(strength2) + (n - 1) * np.log(1 - near**2))


def _interpolation(height: FloatArray, nodes: int) -> csr_matrix:
    """Return the weights ``(N, nodes)`` of linear interpolation at heights in units of the spacing."""
    low = np.clip(np.floor(height).astype(np.int64), 0, nodes - 2)
    above = height - low
    row = np.arange(len(height))
    entries = np.concatenate([1 - above, above]), (np.concatenate([row, row]), np.concatenate([low, low + 1]))
    return csr_matrix(entries, (len(height), nodes))
