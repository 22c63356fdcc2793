"""Lock-on: where a column is now, from its neighbours, without shining on it.

The neighbours are found in small re-scans that leave the target out. Since the first image they have moved by a shift,
a slow distortion and the drift; the target has moved with them:

    position(t) = reference + shift + D (reference - target) + velocity t

All of it is estimated together from all re-scans by generalised least squares, with the priors that ``D`` and the
velocity are small. Errors of the reference positions, which are the same in every re-scan, are part of the covariance
(they do not average out), as is the target's own: that is what makes the stated uncertainty of the aim true.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, stats
from scipy.spatial import cKDTree

from stem_ae import checks
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LIMIT = 0.2
"""Å: the largest standard deviation of an aim at which the beam may be fired (20 pm, as in atomic lock-on)."""

_ENOUGH = 4  # neighbours; fewer cannot contradict one another
_VOTERS = 200  # pairs that are asked for the common shift; more would agree
_FAR = 7.0  # Å: crystals that repeat after more than this are not mistaken for one another here
_MOST = 0.75  # of the atoms: a shift that takes so many to their like is the lattice's
_UNSTEADY = 0.003  # Å/s: drift is not so constant that it would be known better than this for long
_FORETOLD_S = 300.0  # limit of extrapolating the drift: a jump of the clock must not move the beam far away
_INCREDIBLE = 1e-5  # chance of residuals as large as these, below which the neighbours are not believed
_CONTRARY = 3.0  # ... unless their variance is no larger than this, over what was stated: then they were overrated


@dataclasses.dataclass(frozen=True, eq=False)
class Aim:
    """Where to point the beam.

    Parameters
    ----------
    position : (2,) array
        x and y in Å, in the frame of the reference image.
    covariance : (2, 2) array
        Å².
    velocity : (2,) array
        Drift in Å/s.
    neighbours : int
        How many columns it rests on.
    """

    position: FloatArray
    covariance: FloatArray
    velocity: FloatArray
    neighbours: int

    @property
    def deviation(self) -> float:
        """RMS distance in Å between the aim and the column, as far as known."""
        return float(np.sqrt(np.trace(self.covariance)))


@dataclasses.dataclass(frozen=True, eq=False)
class Drift:
    """How far everything has moved since the reference, as far as known.

    Parameters
    ----------
    shift : (2,) array
        x and y in Å at ``time_s``.
    velocity : (2,) array
        Å/s.
    time_s : float
        Seconds of the re-scans' clock.
    """

    shift: FloatArray
    velocity: FloatArray
    time_s: float

    def at(self, time_s: float | FloatArray) -> FloatArray:
        """Return the shift at a time, ``(2,)``, or at several, ``(N, 2)``; extrapolated for some minutes at most."""
        later_s = _bounded(np.asarray(time_s, float) - self.time_s)
        shift: FloatArray = self.shift + np.multiply.outer(later_s, self.velocity)
        return shift


def _bounded(later_s: FloatArray) -> FloatArray:
    """Return times from a measurement, limited to the range of extrapolation; NaN stays NaN."""
    bounded: FloatArray = np.clip(later_s, -_FORETOLD_S, _FORETOLD_S)
    return bounded


UNMOVED = Drift(np.zeros(2), np.zeros(2), 0.0)


class Track:
    """Learns the drift from where the specimen was found, again and again: a straight line through the last finds.

    Parameters
    ----------
    drift : float
        How large the drift may be, in Å/s (standard deviation per axis of the prior).
    error : float
        Of one find, in Å per axis.
    velocity : (2,) array
        Å/s: what is expected before the first find.
    """

    _LAST = 12

    def __init__(self, drift: float = 0.05, error: float = 0.08, velocity: ArrayLike = (0.0, 0.0)) -> None:
        self._prior, self._error = checks.positive(drift, "drift", unit="Å/s"), checks.positive(error, "error")
        self._expected: FloatArray = np.array(checks.place(velocity, "The velocity of the drift"))
        self._finds: list[tuple[float, FloatArray]] = []
        self.now = Drift(np.zeros(2), self._expected, 0.0)
        """The drift as it is known."""
        self.velocity_deviation = drift
        """Standard deviation of its velocity per axis in Å/s."""

    def add(self, time_s: float, shift: FloatArray) -> None:
        """Take in how far the specimen had moved at a time."""
        checks.number(time_s, "The time of a find", unit="s")
        checks.place(shift, "The drift")
        self._finds = [*self._finds, (time_s, shift)][-self._LAST :]
        times = np.array([t for t, _ in self._finds]) - time_s
        rows = np.column_stack([np.ones(len(times)), times]) / self._error
        precision = np.diag([0.0, self._prior**-2])
        covariance = np.linalg.inv(rows.T @ rows + precision)
        expected = precision @ np.array([np.zeros(2), self._expected])
        shifts = np.array([s for _, s in self._finds])
        at_end, velocity = covariance @ (rows.T @ shifts / self._error + expected)
        self.now = Drift(at_end, velocity, time_s)
        self.velocity_deviation = float(np.sqrt(covariance[1, 1]))

    def lost_after_s(self, repeat: float) -> float:
        """Return for how long nobody may look until one column may be taken for the next.

        Two standard deviations of the drift's velocity lead half as far as the crystal repeats then.

        Parameters
        ----------
        repeat : float
            Å; see :func:`repeat_distance`.
        """
        return repeat / 4 / float(np.hypot(self.velocity_deviation, _UNSTEADY))


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """Where a column is from now on, by what is known now. Made by :meth:`LockOn.course`."""

    position: FloatArray
    """x and y in Å at ``time_s``."""
    drift: Drift
    covariance: FloatArray
    """Of shift and velocity at ``time_s``, ``(4, 4)``."""
    own: FloatArray
    """What the target's own position adds to it, ``(2, 2)``."""
    time_s: float
    neighbours: int

    def at(self, time_s: float) -> Aim:
        """Return the aim at a time."""
        later = time_s - self.time_s
        row = np.hstack([np.eye(2), later * np.eye(2)])
        return Aim(
            self.position + _bounded(np.asarray(later, float)) * self.drift.velocity,
            row @ self.covariance @ row.T + self.own,
            self.drift.velocity,
            self.neighbours,
        )


class LockOn:
    """Follows one column by its neighbours.

    Parameters
    ----------
    reference : Atoms2D
        What was found in the image in which the target was chosen.
    target : int
        Index of the target in it.
    reach : float
        Neighbours within this distance in Å take part.
    drift : float
        How large the drift may be, in Å/s (standard deviation per axis of the prior); 0.05 is 3 Å/min.
    distortion : float
        How much the scan may stretch, shear or turn between the images (standard deviation, as a fraction).
    scatter : float
        How far a column may have relaxed by itself since the reference, in Å (standard deviation per axis).
    known : Drift
        What is known of the drift before the first re-scan; ``drift`` is the deviation from its velocity. It must be
        right within half the distance of neighbours: crystals repeat.

    Raises
    ------
    StemAeError
        If the target has too few neighbours.
    """

    def __init__(
        self,
        reference: Atoms2D,
        target: int,
        reach: float = 8.0,
        drift: float = 0.05,
        distortion: float = 0.005,
        scatter: float = 0.02,
        known: Drift = UNMOVED,
    ) -> None:
        if not 0 <= target < len(reference):
            raise StemAeError(f"There is no atom {target} among the {len(reference)} that were found.")
        checks.positive(reach, "reach", unit="Å")
        for name, value in (("drift", drift), ("distortion", distortion)):
            checks.positive(value, name)
        checks.number(scatter, "scatter", least=0.0, unit="Å")
        self.target = reference.positions[target]
        self._known = known
        distance = np.linalg.norm(reference.positions - self.target, axis=1)
        self._near: IntArray = np.flatnonzero((distance < reach) & (np.arange(len(reference)) != target))
        if len(self._near) < _ENOUGH:
            raise StemAeError(f"The target has only {len(self._near)} neighbours within {reach:g} Å: raise the reach.")
        self._prior = np.array([1 / distortion**2] * 4 + [1 / drift**2] * 2)
        own = scatter**2 * np.eye(2)
        self._anchors = reference.positions[self._near]
        self._anchor_covariance = reference.covariance[self._near] + own
        self._target_covariance = reference.covariance[target] + own
        self._spacing = float(cKDTree(self._anchors).query(self._anchors, k=2)[0][:, 1].min())
        self._epoch_s = 0.0  # of the first re-scan: the clock may count seconds since 1970
        self._observations: list[tuple[IntArray, FloatArray, FloatArray, FloatArray]] = []

    def add(self, found: Atoms2D, origin: ArrayLike, time_s: float | ArrayLike) -> int:
        """Take in a re-scan and return how many neighbours were recognised in it.

        Parameters
        ----------
        found : Atoms2D
            What was found in it. An atom at the target's place does no harm: it is left out.
        origin : (float, float)
            Where the re-scan's first pixel lies in the reference image, in Å, x and y.
        time_s : float or (N,) array
            When it was taken, or when each atom was scanned, in seconds of a clock that started at the reference.
        """
        times = np.broadcast_to(np.asarray(time_s, float), (len(found),))
        if not len(found):
            return 0
        positions = found.positions + np.asarray(origin, float) - self._known.at(times)
        if not self._observations:
            self._epoch_s = float(times.mean())
        expected = self._anchors + self._expected_shift(float(times.mean()), positions)
        distance, nearest = cKDTree(positions).query(expected, distance_upper_bound=self._spacing / 2)
        seen = np.flatnonzero(np.isfinite(distance))
        k = nearest[seen]
        self._observations.append((seen, positions[k], found.covariance[k], times[k]))
        return len(seen)

    def predict(self, at_s: float, limit: float = LIMIT) -> Aim:
        """Return where the target will be.

        Parameters
        ----------
        at_s : float
            When, in seconds of the re-scans' clock.
        limit : float
            Largest acceptable :attr:`Aim.deviation` in Å.

        Raises
        ------
        StemAeError
            If the aim is less certain than that, or the neighbours contradict one another.
        """
        checks.positive(limit, "The limit of the aim's uncertainty", unit="Å")
        aim = self.course(at_s).at(at_s)
        if not aim.deviation <= limit:
            raise StemAeError(
                f"The aim is uncertain by {aim.deviation:.2f} Å (allowed: {limit:.2f} Å): take another re-scan first."
            )
        return aim

    def course(self, time_s: float) -> Course:
        """Return where the target is from a time on, and what is known of the drift.

        Raises
        ------
        StemAeError
            If there are too few neighbours, or they contradict one another.
        """
        neighbours = len({int(k) for seen, *_ in self._observations for k in seen})
        if neighbours < _ENOUGH:
            raise StemAeError(
                f"Only {neighbours} neighbours of the target were recognised: scan a larger surrounding or re-image."
            )
        solution, covariance, contradictory = self._solve()
        if contradictory:
            raise StemAeError("The neighbours have not moved as one: something changed here, take a new image.")
        at_target = self._rows(self.target[None], np.array([time_s]))
        shift = self._known.at(time_s) + at_target @ solution
        moving = np.vstack([at_target, np.eye(8)[-2:]])
        return Course(
            self.target + shift,
            Drift(shift, self._known.velocity + solution[-2:], time_s),
            moving @ covariance @ moving.T,
            self._target_covariance,
            time_s,
            neighbours,
        )

    def _expected_shift(self, time_s: float, positions: FloatArray) -> FloatArray:
        """Shift of the neighbours by now: from the earlier re-scans, or what most of the found atoms agree on."""
        if self._observations:
            solution, _, _ = self._solve()
            shift: FloatArray = (self._rows(self.target[None], np.array([time_s])) @ solution).reshape(2)
            return shift
        return common_shift(positions, self._anchors, self._spacing)

    def _rows(self, reference: FloatArray, times: FloatArray) -> FloatArray:
        """Return the design matrix ``(2n, 8)``: x and y of each point over shift (2), D (4) and velocity (2)."""
        away = reference - self.target
        times = times - self._epoch_s
        one, zero = np.ones(len(away)), np.zeros(len(away))
        x = np.column_stack([one, zero, away[:, 0], away[:, 1], zero, zero, times, zero])
        y = np.column_stack([zero, one, zero, zero, away[:, 0], away[:, 1], zero, times])
        rows: FloatArray = np.stack([x, y], axis=1).reshape(-1, 8)
        return rows

    def _solve(self) -> tuple[FloatArray, FloatArray, bool]:
        """Return the estimate (8,), its covariance, and whether the neighbours contradict one another.

        Neighbours that scatter more than was stated count for as much less (Birge's ratio).
        """
        seen, positions, covariances, times = (np.concatenate(part) for part in zip(*self._observations, strict=True))
        rows = self._rows(self._anchors[seen], times)
        moved = (positions - self._anchors[seen]).reshape(-1)
        same_anchor = seen[:, None] == seen[None, :]
        blocks = np.where(same_anchor[:, :, None, None], self._anchor_covariance[seen][:, None], 0.0)
        blocks[np.arange(len(seen)), np.arange(len(seen))] += covariances
        noise = blocks.transpose(0, 2, 1, 3).reshape(2 * len(seen), 2 * len(seen))
        factor = linalg.cho_factor(noise, lower=True)
        precision = rows.T @ linalg.cho_solve(factor, rows)
        precision[2:, 2:] += np.diag(self._prior)
        covariance = np.linalg.inv(precision)
        solution = covariance @ rows.T @ linalg.cho_solve(factor, moved)
        residual = moved - rows @ solution
        chi2 = float(residual @ linalg.cho_solve(factor, residual) + self._prior @ solution[2:] ** 2)
        # The priors count as six observations: two parameters, the shift, are free.
        freedom = len(moved) + 6 - 8
        agree = stats.chi2.sf(chi2, freedom) >= _INCREDIBLE or chi2 <= _CONTRARY * freedom
        contradictory = not agree  # NaN never agrees
        return solution, covariance * max(chi2 / freedom, 1.0), contradictory


def common_shift(positions: FloatArray, anchors: FloatArray, spacing: float) -> FloatArray:
    """Return the shift, shorter than ``spacing``, that takes most of the anchors to a position.

    Every position may be every anchor: the true shift is where most differences meet.
    """
    pairs = cKDTree(positions).sparse_distance_matrix(cKDTree(anchors), spacing, output_type="ndarray")
    if not len(pairs):
        return np.zeros(2)
    differences = positions[pairs["i"]] - anchors[pairs["j"]]
    voters = differences[:: 1 + len(differences) // _VOTERS]
    tree = cKDTree(differences)
    votes = tree.query_ball_point(voters, spacing / 5, return_length=True)
    agreed: FloatArray = differences[tree.query_ball_point(voters[np.argmax(votes)], spacing / 5)].mean(axis=0)
    return agreed


def repeat_distance(atoms: Atoms2D) -> float:
    """Return the length in Å of the shortest shift that takes most atoms to atoms of their class.

    A crystal that has moved by this much cannot be told from one that has not. What repeats after more than 7 Å, or
    not at all, counts as 7 Å.
    """
    pairs = cKDTree(atoms.positions).query_pairs(_FAR, output_type="ndarray")
    pairs = pairs[atoms.labels[pairs[:, 0]] == atoms.labels[pairs[:, 1]]]
    if not len(pairs):
        return _FAR
    shifts = atoms.positions[pairs[:, 1]] - atoms.positions[pairs[:, 0]]
    shifts = np.concatenate([shifts, -shifts])
    voters = shifts[:: 1 + len(shifts) // (5 * _VOTERS)]
    length = np.linalg.norm(voters, axis=1)
    votes = cKDTree(shifts).query_ball_point(voters, 0.5, return_length=True)
    return float(np.median(length[_shortest(length, votes)]))


def _shortest(length: FloatArray, votes: IntArray) -> NDArray[np.bool_]:
    """Return which shifts are the lattice's shortest, errors of the positions aside."""
    of_lattice = votes > _MOST * np.percentile(votes, 98)
    result: NDArray[np.bool_] = of_lattice & (length < length[of_lattice].min() + 0.5)
    return result
