"""Which settings give the best of something: Bayesian optimisation of a few controls, with an ask / tell interface."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import qmc

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.explore.gaussian_process import GaussianProcess

FloatArray = NDArray[np.float64]

_EVERYWHERE, _NEARBY = 1024, 1024  # settings that are looked at before each answer
_NEAR = 0.08  # standard deviation of those around the best, of each range
_FIT_STEPS = 40


class Tuner:
    """Looks for the settings of a few controls with the highest reward, from as few trials as possible.

    A Gaussian process with a length scale for each control, and the expected improvement over the best prediction.

    Parameters
    ----------
    low, high : (d,) arrays
        Range of each control.
    start : (d,) array, optional
        What to try first, such as the settings now; the middle of the ranges when not given.
    first : int
        Trials that are spread over the ranges before the process has a say.
    seed : int
        The same seed and rewards give the same trials.
    """

    def __init__(
        self, low: ArrayLike, high: ArrayLike, start: ArrayLike | None = None, first: int = 6, seed: int = 0
    ) -> None:
        self._low, self._high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        ends = self._low.shape == self._high.shape and np.isfinite([self._low, self._high]).all()
        if self._low.ndim != 1 or not ends or not np.all(self._low < self._high):
            raise StemAeError("Each control needs a range: give the lower and the higher end, both finite.")
        first = checks.whole(first, "first")
        self._rng = np.random.default_rng(checks.whole(seed, "seed", 0, checks.MOST_SEED))
        self._sobol = qmc.Sobol(len(self._low), seed=self._rng)
        if start is not None and not np.isfinite(np.asarray(start, dtype=float)).all():
            raise StemAeError(f"The settings to start from, {start}, are not numbers: give one for each control.")
        unit = 0.5 * np.ones(len(self._low)) if start is None else self._to_unit(np.asarray(start, dtype=float))
        self._first = [np.clip(unit, 0.0, 1.0), *self._sobol.random_base2(4)[: max(first - 1, 0)]]
        self._trials: list[FloatArray] = []
        self._rewards: list[float] = []

    @property
    def trials(self) -> FloatArray:
        """Settings tried so far, ``(n, d)``."""
        return self._from_unit(np.array(self._trials).reshape(-1, len(self._low)))

    @property
    def rewards(self) -> FloatArray:
        """What they gave, ``(n,)``."""
        return np.array(self._rewards)

    def ask(self) -> FloatArray:
        """Return the settings ``(d,)`` to try next."""
        if len(self._trials) < len(self._first):
            return self._from_unit(self._first[len(self._trials)])
        candidates, mean, std = self._predict()
        level = float(mean[: len(self._trials)].max())
        z = (mean - level) / std
        # Jones, Schonlau & Welch, J. Global Optim. 13, 455 (1998)
        improvement = std * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
        return self._from_unit(candidates[int(improvement.argmax())])

    def tell(self, settings: ArrayLike, reward: float) -> None:
        """Take note of a trial's reward."""
        if not np.isfinite(reward):
            raise StemAeError(f"A reward of {reward} was told: it has to be a number.")
        self._trials.append(self._to_unit(np.asarray(settings, dtype=float)))
        self._rewards.append(float(reward))

    @property
    def best(self) -> FloatArray:
        """Settings ``(d,)`` with the highest predicted reward."""
        if len(self._trials) < 3:
            tried: FloatArray = self.trials[int(np.argmax(self._rewards))]
            return tried
        candidates, mean, _ = self._predict()
        return self._from_unit(candidates[int(mean.argmax())])

    def _predict(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return settings, trials first, with mean and standard deviation of their reward (standardised)."""
        trials = np.array(self._trials)
        best = trials[int(np.argmax(self._rewards))]
        nearby = np.clip(best + self._rng.normal(0.0, _NEAR, (_NEARBY, len(best))), 0.0, 1.0)
        candidates = np.concatenate([trials, nearby, self._rng.random((_EVERYWHERE, len(best)))])
        process = GaussianProcess([4.0 * (column[:, None] - 0.5) for column in candidates.T], "matern52")
        y = (self.rewards - self.rewards.mean()) / (self.rewards.std() or 1.0)
        index = np.arange(len(trials))
        process.fit(index, y, _FIT_STEPS)
        posterior = process.condition(index, y)
        return candidates, posterior.mean, np.sqrt(posterior.variance)

    def _to_unit(self, settings: FloatArray) -> FloatArray:
        unit: FloatArray = (settings - self._low) / (self._high - self._low)
        return unit

    def _from_unit(self, unit: FloatArray) -> FloatArray:
        settings: FloatArray = self._low + unit * (self._high - self._low)
        return settings
