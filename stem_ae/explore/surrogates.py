"""What predicts the property at places not measured yet.

A surrogate is given all candidates once, and the measurements so far at every step; it answers with a
:class:`Prediction` of every candidate.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.explore.deep_kernel import DeepKernel, held_out
from stem_ae.explore.gaussian_process import GaussianProcess, KernelName, Posterior
from stem_ae.torch_device import CPU

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
SurrogateName = Literal["gp", "descriptor", "dkl", "auto"]
JudgeName = Literal["likelihood", "left-out"]

COLD, WARM = 40, 15  # optimiser steps for a first fit, and from the last one's result
NETWORK_COLD, NETWORK_WARM = 40, 10
POSITION_UNIT = 0.25  # position of a spatial process counts in this many standard deviations of the field of view
COVERED = 0.9545  # what two standard deviations hold


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Everything a surrogate may know of the candidates before anything is measured.

    Parameters
    ----------
    position : (N, 2) array
        In Å.
    groups : tuple of (N, d) arrays
        Descriptors of what the image shows there, any units.
    device : torch.device
        Where to compute.
    """

    position: FloatArray
    groups: tuple[FloatArray, ...]
    device: torch.device = CPU


class Prediction:
    """Mean and standard deviation of all candidates in the property's own units, calibrated."""

    def __init__(
        self, posterior: Posterior, centre: float, scale: float, held: NDArray[np.bool_] | None = None
    ) -> None:
        self._posterior, self._centre, self._scale = posterior, centre, scale
        self.calibration = _calibration(posterior, held)

    @property
    def mean(self) -> FloatArray:
        """Expected value, ``(N,)``."""
        return self._centre + self._scale * self._posterior.mean

    @property
    def std(self) -> FloatArray:
        """Standard deviation of the noise-free value, ``(N,)``."""
        return self._scale * self.calibration * np.sqrt(self._posterior.variance)

    @property
    def noise(self) -> float:
        """Standard deviation of one measurement."""
        return self._scale * float(np.sqrt(self._posterior.process.noise))

    def left_out_score(self) -> float:
        """Mean log density of each measured value as predicted from the others (standardised)."""
        error, sigma = self._posterior.leave_one_out()
        return float(np.mean(-0.5 * (error / sigma) ** 2 - np.log(sigma)) - 0.5 * np.log(2 * np.pi))

    def likelihood_score(self) -> float:
        """Log marginal likelihood of the measured values (standardised), per value."""
        return self._posterior.log_likelihood() / len(self._posterior.y)

    def copy(self) -> Prediction:
        """Return a copy whose beliefs stay its own."""
        other = copy.copy(self)
        other._posterior = self._posterior.copy()
        return other

    def believe(self, chosen: int) -> None:
        """Act as if ``chosen`` had been measured and had given the mean."""
        self._posterior.believe(chosen)

    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return functions drawn from the posterior, ``(count, N)``."""
        return self._centre + self._scale * self._posterior.draw(count, rng)


def _calibration(posterior: Posterior, held: NDArray[np.bool_] | None) -> float:
    """Return the factor, one at least, with which 2-sigma intervals hold 95.4 % of the left-out values.

    The quantile is that of conformal prediction, right for any number of measurements (Vovk et al., Algorithmic
    Learning in a Random World (2005)). Leaving one out leaves its influence on the hyper-parameters and on the network
    in: the former is corrected by the degrees of freedom, the latter by how much worse the measurements that never
    train the network (``held``) are predicted than those that do.
    """
    error, sigma = posterior.leave_one_out()
    n, p = len(error), len(posterior.process.log_parameters)
    if n < 3:
        return 1.0
    z = np.abs(error) / sigma
    wanted = np.quantile(z, min(np.ceil((n + 1) * COVERED) / n, 1.0)) / 2.0 * np.sqrt(n / max(n - p, n / 2))
    if held is not None:
        wanted *= max(np.sqrt(np.mean(z[held] ** 2) / np.mean(z[~held] ** 2)), 1.0)
    return float(np.clip(wanted, 1.0, 4.0))


class _Regression:
    """Shared by all surrogates: standardise, fit, condition."""

    process: GaussianProcess

    def __init__(self) -> None:
        self._fitted = False

    def predict(self, index: IntArray, values: FloatArray) -> Prediction:
        """Return the prediction of all candidates from values at ``index``; without values, the prior."""
        centre = float(values.mean()) if len(values) else 0.0
        spread = float(values.std()) if len(values) else 0.0
        scale = spread if spread > 1e-12 * max(abs(centre), 1e-300) else max(abs(centre), 1.0)
        y = (values - centre) / scale
        if len(values):
            self._learn(index, y)
            self._fitted = True
        return Prediction(self.process.condition(index, y), centre, scale, self._held(len(y)))

    def _held(self, n: int) -> NDArray[np.bool_] | None:
        """Return which of ``n`` measurements a network in use was not trained on."""
        return None

    def _learn(self, index: IntArray, y: FloatArray) -> None:
        self.process.fit(index, y, WARM if self._fitted else COLD)


class PositionSurrogate(_Regression):
    """A Gaussian process on position alone: no use is made of the image.

    Parameters
    ----------
    candidates : Candidates
    kernel : "rbf", "matern52" or "rq"
    length_scale : float, optional
        In Å; learnt when not given.
    """

    def __init__(
        self, candidates: Candidates, kernel: KernelName = "matern52", length_scale: float | None = None
    ) -> None:
        super().__init__()
        unit = POSITION_UNIT * _spread(candidates.position)
        if length_scale is not None and not (np.isfinite(length_scale) and length_scale > 0):
            raise StemAeError(f"The length scale {length_scale!r} is not valid: give a positive number in Å.")
        self.process = GaussianProcess(
            [_centred(candidates.position) / unit], kernel,
            length=None if length_scale is None else length_scale / unit, device=candidates.device,
        )


class DescriptorSurrogate(_Regression):
    """A Gaussian process on descriptors of the image and on position."""

    def __init__(self, candidates: Candidates, kernel: KernelName = "matern52") -> None:
        super().__init__()
        position = _centred(candidates.position) / _spread(candidates.position)
        self.process = GaussianProcess(
            [*(_unit(group) for group in candidates.groups), position / np.sqrt(2.0)], kernel, trend=position,
            device=candidates.device,
        )  # fmt: skip


class DeepKernelSurrogate(DescriptorSurrogate):
    """The same, with the descriptors bent by a network that is trained on the measurements."""

    def __init__(self, candidates: Candidates, kernel: KernelName = "matern52", seed: int = 0) -> None:
        super().__init__(candidates, kernel)
        self._deep = DeepKernel(self.process, len(candidates.groups), seed)

    def _learn(self, index: IntArray, y: FloatArray) -> None:
        cold = not self._fitted
        super()._learn(index, y)
        self._deep.train(index, y, NETWORK_COLD if cold else NETWORK_WARM)

    def _held(self, n: int) -> NDArray[np.bool_] | None:
        return held_out(n) if self._deep.active else None


class AutomaticSurrogate:
    """Whichever of the others explains the measurements best.

    The choice is among position with each kernel, and descriptors; descriptors win as the deep kernel, whose network
    withdraws by itself where it does not help (a trained network's marginal likelihood says nothing: training raises
    it). It is made anew whenever the measurements have grown by a quarter.

    Parameters
    ----------
    candidates : Candidates
    seed : int
    judge : "likelihood" or "left-out"
        What is compared: the marginal likelihood, or how well each measurement is predicted from the others.
    """

    def __init__(self, candidates: Candidates, seed: int = 0, judge: JudgeName = "likelihood") -> None:
        if judge not in ("likelihood", "left-out"):
            raise StemAeError(f"Surrogates cannot be judged by {judge!r}: choose likelihood or left-out.")
        self._score = Prediction.likelihood_score if judge == "likelihood" else Prediction.left_out_score
        self._all: dict[str, _Regression] = {
            "dkl": DeepKernelSurrogate(candidates, seed=seed),
            "gp-matern52": PositionSurrogate(candidates, "matern52"),
            "gp-rbf": PositionSurrogate(candidates, "rbf"),
            "gp-rq": PositionSurrogate(candidates, "rq"),
        }
        self._judge = DescriptorSurrogate(candidates)
        self._judged = 0
        self.chosen = "dkl"

    def predict(self, index: IntArray, values: FloatArray) -> Prediction:
        """Return the chosen surrogate's prediction."""
        if len(values) >= max(1.25 * self._judged, 10):
            judged = {**self._all, "dkl": self._judge}
            scores = {name: self._score(one.predict(index, values)) for name, one in judged.items()}
            self.chosen, self._judged = max(scores, key=scores.__getitem__), len(values)
        return self._all[self.chosen].predict(index, values)


Surrogate = PositionSurrogate | DescriptorSurrogate | DeepKernelSurrogate | AutomaticSurrogate


def _centred(x: FloatArray) -> FloatArray:
    centred: FloatArray = x - x.mean(axis=0)
    return centred


def _spread(position: FloatArray) -> float:
    """Root mean square of both coordinates' standard deviations: the same unit along y and x."""
    return float(np.sqrt(position.var(axis=0).mean())) or 1.0


def _unit(group: FloatArray) -> FloatArray:
    """Scale a group of descriptors to unit total variance, without changing their proportions."""
    total = float(np.sqrt(group.var(axis=0).sum()))
    return _centred(group) / (total if total > 0 else 1.0)
