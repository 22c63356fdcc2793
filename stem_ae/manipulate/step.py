"""When did the signal step? A sequential test on counts, with its false alarms as asked for.

Counts are Poisson distributed with the mean rate ``before`` until the atom leaves and ``after`` from then on. The test
is Page's cumulative sum (Biometrika 41 (1954) 100) of the log-likelihood ratio,

    S_n = max(0, S_{n-1} + z_n),    z = k ln(after / before) - (after - before) t    for k counts in t seconds,

which stops when ``S_n`` reaches a threshold. No test with as few false alarms has a shorter worst-case delay
(Moustakides, Ann. Stat. 14 (1986) 1379). The threshold comes from the mean time to a false alarm, which is computed
with the Markov chain of Brook and Evans (Biometrika 59 (1972) 539): ``S`` on a grid. Moves to between grid points are
shared by the two next to them such that ``E[exp z] = 1`` holds before the step (and ``E[exp -z] = 1`` after it), as it
does for likelihood ratios; the run length then grows with the threshold at exactly the right rate on any grid.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from stem_ae import checks
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]


class StepDetector:
    """Says, count by count, whether the signal has stepped from one level to another.

    Parameters
    ----------
    before, after : float
        Mean counts per second before and after the step (detected electrons: a Poisson process); either may be larger.
    false_alarm_per_s : float
        False alarms per second of exposure without a step: the reciprocal of the mean time to the first one.
    coarse : float
        Take the threshold of an exposure that is shorter by at most this fraction, so that exposures of ever different
        lengths need few thresholds; false alarms become rarer by about as much. Zero: each length has its own.

    Raises
    ------
    StemAeError
        If a rate is not a positive number, or the two levels are the same.
    """

    def __init__(self, before: float, after: float, false_alarm_per_s: float, coarse: float = 0.0) -> None:
        self._coarse = coarse
        self._parameters = _checked(before, after, false_alarm_per_s)
        self.before, self.after, self.false_alarm_per_s = self._parameters
        self._gain = math.log(self.after / self.before)
        self._exposure_s = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget every count."""
        self.statistic = 0.0
        """Evidence for the step in nats: ``S_n``."""
        self.threshold = math.inf
        """What the statistic was compared with at the last update; it depends a little on the exposure's length."""
        self.stopped = False
        """Whether the step has been seen; stays so until :meth:`reset`."""

    def threshold_for(self, exposure_s: float) -> float:
        """Return the threshold in nats for exposures of this length.

        The first call for a length takes up to some tenths of a second: make it before the beam is on.
        """
        return threshold(*self._parameters, self._as_if(exposure_s))

    def _as_if(self, exposure_s: float) -> float:
        if not self._coarse:
            return exposure_s
        step = math.log1p(self._coarse)
        return math.exp(step * math.floor(math.log(exposure_s) / step + 1e-6))

    def update(self, counts: float, exposure_s: float) -> bool:
        """Take in the counts of one exposure and return whether the step has happened.

        Parameters
        ----------
        counts : float
            Detected electrons.
        exposure_s : float
            Length of the exposure in seconds; it may differ from call to call.

        Raises
        ------
        StemAeError
            If the counts are negative or not a number, or the exposure is not positive.
        """
        check_reading(counts, exposure_s)
        if exposure_s != self._exposure_s or not self.threshold < math.inf:
            self.threshold, self._exposure_s = self.threshold_for(exposure_s), exposure_s
        evidence = counts * self._gain - (self.after - self.before) * exposure_s
        self.statistic = max(0.0, self.statistic + evidence)
        self.stopped = self.stopped or self.statistic >= self.threshold
        return self.stopped


def check_reading(counts: float, exposure_s: float) -> None:
    """Raise StemAeError unless these are counts (zero or more) of a positive time in seconds."""
    if not (math.isfinite(counts) and counts >= 0):
        raise StemAeError(f"The detector gave {counts} counts: convert its signal to electrons, zero or more.")
    if not (math.isfinite(exposure_s) and exposure_s > 0):
        raise StemAeError(f"An exposure of {exposure_s} s is not possible: give a positive number of seconds.")


def threshold(before: float, after: float, false_alarm_per_s: float, exposure_s: float) -> float:
    """Return the threshold in nats that gives these false alarms with exposures of this length.

    The smallest on a fine grid (at most 0.025 nats) with which they are not more frequent than asked for. Where a
    single exposure tells the two levels apart they are rarer: counts are whole numbers, and more of them gain nothing.

    Parameters
    ----------
    before, after : float
        Counts per second.
    false_alarm_per_s : float
        Per second of exposure.
    exposure_s : float
        Seconds; taken to three digits.
    """
    parameters = _checked(before, after, false_alarm_per_s)
    check_reading(0, exposure_s)
    return _threshold(*parameters, float(f"{exposure_s:.2e}"))


def false_alarm_rate(before: float, after: float, nats: float, exposure_s: float) -> float:
    """Return the false alarms per second of a test with this threshold in nats, from the Markov chain."""
    exposures = _run_length(before, after, before, max(1, round(nats / _grid(before, after))), exposure_s)
    return 1 / (exposures * exposure_s)


def expected_delay_s(before: float, after: float, false_alarm_per_s: float, exposure_s: float) -> float:
    """Return the mean time from the step to the alarm in seconds.

    The step happens at the beginning of an exposure and finds no evidence yet: the worst case of Lorden (Ann. Math.
    Stat. 42 (1971) 1897), in which no test with these false alarms is faster (Moustakides 1986).
    """
    nats = threshold(before, after, false_alarm_per_s, exposure_s)
    return exposure_s * _run_length(before, after, after, round(nats / _grid(before, after)), exposure_s)


def information_per_s(before: float, after: float) -> float:
    """Return the Kullback-Leibler divergence of the levels in nats per second: how fast evidence grows after the step.

    ``after ln(after / before) - (after - before)`` for Poisson counts.
    """
    before, after, _ = _checked(before, after, 1.0)
    return after * math.log(after / before) - (after - before)


def lorden_bound_s(before: float, after: float, false_alarm_per_s: float, exposure_s: float) -> float:
    """Return Lorden's bound on the worst-case mean delay in seconds: ``ln(exposures to a false alarm) / information``.

    Lorden (1971), theorem 3: the leading term for rare false alarms. At finite rates the best test can be faster (short
    exposures) or, as nobody can stop within an exposure, slower (long ones): :func:`expected_delay_s` is exact.
    """
    exposures = 1 / (false_alarm_per_s * exposure_s)
    return max(math.log(exposures), 0.0) / information_per_s(before, after)


def _checked(before: float, after: float, false_alarm_per_s: float) -> tuple[float, float, float]:
    """Return the parameters as floats, or say what is wrong with them."""
    for name, value in (("before", before), ("after", after), ("false_alarm_per_s", false_alarm_per_s)):
        checks.positive(value, name)
    if before == after:
        raise StemAeError("The signal is the same before and after the step: choose a detector that tells them apart.")
    return float(before), float(after), float(false_alarm_per_s)


@functools.lru_cache(maxsize=1024)
def _threshold(before: float, after: float, false_alarm_per_s: float, exposure_s: float) -> float:
    """Search the smallest number of grid steps whose run length is long enough.

    Run lengths are at least exp(threshold) (Lorden 1971): where one exposure decides anyway, that will do.
    """
    wanted = max(1 / (false_alarm_per_s * exposure_s), 1.0)
    grid = _grid(before, after)
    enough = max(math.ceil(math.log(wanted) / grid), 1)
    if _one_decides(before, after, enough * grid, exposure_s):
        return enough * grid
    low, high = 0, math.ceil((math.log(wanted) + 3) / grid)
    guess = high // 2
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        exposures = _run_length(before, after, before, guess, exposure_s)
        low, high = (low, guess) if exposures >= wanted else (guess, high)
        # ln(run length) grows as the threshold does, unless a single exposure decides.
        step = round(math.log(wanted / exposures) / grid) if math.isfinite(exposures) else 0
        guess = guess + step if low < guess + step < high else (low + high) // 2
    return high * grid


def _one_decides(before: float, after: float, nats: float, exposure_s: float) -> bool:
    """Return whether one exposure after the step as good as always (six standard deviations) gives this evidence."""
    evidence = information_per_s(before, after) * exposure_s
    spread = abs(math.log(after / before)) * math.sqrt(after * exposure_s)
    return evidence - 6 * spread > nats


def _grid(before: float, after: float) -> float:
    """Return the spacing of the grid in nats: small against the evidence in one count."""
    return min(max(abs(math.log(after / before)) / 16, 0.005), 0.025)


def _run_length(before: float, after: float, true: float, steps: int, exposure_s: float) -> float:
    """Return the mean number of exposures until ``S`` reaches ``steps`` grid steps, at the true rate, from zero.

    Page: runs of ``S`` from zero end at zero or at the threshold, so that the mean is (exposures of a run) / (chance
    that it ends at the threshold). Within a run the chain's matrix is of Toeplitz form, and nothing cancels.
    """
    jump = _jump_probabilities(before, after, true, steps, exposure_s)
    # jump[steps + j] is the chance to move by j grid steps.
    column, row = -jump[steps : 0 : -1], -jump[steps : 2 * steps]
    column[0] = row[0] = 1 - jump[steps]
    alarms = np.cumsum(jump[:steps:-1])[::-1]  # alarms[j - 1]: the chance to move by j steps or more
    exposures, alarm = linalg.solve_toeplitz((column, row), np.column_stack([np.ones(steps), alarms[::-1]]))[0]
    return float(exposures / alarm) if alarm > 0 else math.inf


def _jump_probabilities(before: float, after: float, true: float, steps: int, exposure_s: float) -> FloatArray:
    """Return the chances ``(2 * steps + 1,)`` that one exposure moves ``S`` by -steps ... steps; ends hold the rest."""
    grid = _grid(before, after)
    mean = true * exposure_s
    reach = 10 * math.sqrt(mean) + 40  # Poisson tails beyond are below 1e-20
    counts = np.arange(max(0, math.floor(mean - reach)), math.ceil(mean + reach) + 1)
    chance = np.exp(special.xlogy(counts, mean) - mean - special.gammaln(counts + 1.0))
    evidence = counts * math.log(after / before) - (after - before) * exposure_s
    lower = np.floor(evidence / grid)
    sign = 1.0 if true == before else -1.0  # exp(S) is the martingale before the step, exp(-S) after it
    upper_share = np.expm1(sign * (evidence - lower * grid)) / np.expm1(sign * grid)
    index = np.clip(lower, -steps - 1, steps).astype(np.int64) + steps
    last = 2 * steps
    result = np.bincount(np.clip(index, 0, last), chance * (1 - upper_share), last + 1)
    result += np.bincount(np.clip(index + 1, 0, last), chance * upper_share, last + 1)
    jump: FloatArray = result / result.sum()
    return jump
