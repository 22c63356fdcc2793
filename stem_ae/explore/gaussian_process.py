"""Exact Gaussian-process regression on the candidates of a scan, fast enough to sit between two exposures.

Every measured point is one of the candidates, so the process works on indices into fixed inputs. Those come in groups
(position, principal components, local shape, ...) with one length scale each: five to eight hyper-parameters in all,
which ten measurements can already support.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from torch import Tensor

from stem_ae.errors import StemAeError
from stem_ae.torch_device import CPU

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
KernelName = Literal["rbf", "matern52", "rq"]

JITTER = 1e-6  # of the variance of the data: the least noise, which keeps the Cholesky factor well conditioned
FIT_POINTS = 200  # hyper-parameters are learnt from at most so many points; all points predict
BLOCK = 8192  # candidates predicted at once


def _rbf(d2: Tensor, _: Tensor) -> Tensor:
    return torch.exp(-0.5 * d2)


def _matern52(d2: Tensor, _: Tensor) -> Tensor:
    d = torch.sqrt(5.0 * d2 + 1e-12)
    return (1.0 + d + d * d / 3.0) * torch.exp(-d)


def _rational_quadratic(d2: Tensor, alpha: Tensor) -> Tensor:
    return (1.0 + d2 / (2.0 * alpha)) ** -alpha


# Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), eqs 4.9, 4.17, 4.19, of the squared distance
KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rbf": _rbf, "matern52": _matern52, "rq": _rational_quadratic,
}


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distances ``(n, m)`` between rows."""
    return ((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * (a @ b.T)).clamp_min(0.0)


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A hyper-parameter's logarithm: normal prior and bounds."""

    mean: float
    sigma: float
    low: float
    high: float


_LENGTH = _Parameter(0.4, 1.0, -6.0, 8.0)
_SIGNAL = _Parameter(0.0, 1.0, -4.0, 4.0)
_NOISE = _Parameter(-6.0, 2.0, math.log(JITTER), 1.0)
_TREND_LENGTH = _Parameter(-1.0, 0.7, -3.0, 3.0)
_TREND_SIGNAL = _Parameter(-2.0, 1.5, -12.0, 3.0)
_ALPHA = _Parameter(0.0, 1.0, -3.0, 4.0)


class GaussianProcess:
    """A zero-mean process over candidates with standardised values.

    The covariance of candidates ``i`` and ``j`` is

    ``signal k(sum_g |x_gi - x_gj|² / length_g²) + trend_signal k(|p_i - p_j|² / trend_length²)``

    where ``x_g`` are the groups and ``p``, when given, a slow trend's coordinates (position): what the image does not
    show still varies smoothly over the specimen. Hyper-parameters maximise the posterior (likelihood times weak
    log-normal priors), starting where the last fit ended.

    Parameters
    ----------
    groups : sequence of (N, d) arrays
        Inputs of all candidates, each group scaled so that typical squared distances are of order one.
    kernel : "rbf", "matern52" or "rq"
    trend : (N, d) array, optional
    length : float, optional
        Fixes the length scale of every group, in the groups' units, instead of learning it.
    device : torch.device
        Where to compute. The hyper-parameters stay with the CPU, where they are optimised.
    """

    def __init__(
        self, groups: Sequence[FloatArray], kernel: KernelName = "matern52", trend: FloatArray | None = None,
        length: float | None = None, device: torch.device = CPU,
    ) -> None:
        if kernel not in KERNELS:
            raise StemAeError(f"There is no kernel {kernel!r}: choose one of {', '.join(KERNELS)}.")
        self.device = device
        self.groups = [self.tensor(group) for group in groups]
        self.trend = None if trend is None else self.tensor(trend)
        self.kernel_name = kernel
        fixed = None if length is None else _Parameter(math.log(length), 1.0, math.log(length), math.log(length))
        self._space = [fixed or _LENGTH] * len(self.groups) + [_SIGNAL, _NOISE]
        self._space += [] if self.trend is None else [_TREND_LENGTH, _TREND_SIGNAL]
        self._space += [_ALPHA] if kernel == "rq" else []
        self.log_parameters = torch.tensor([one.mean for one in self._space], dtype=torch.float64, device=CPU)

    def tensor(self, array: ArrayLike) -> Tensor:
        """Return an array of numbers as a tensor where this process computes."""
        return torch.as_tensor(array, dtype=torch.float64, device=self.device)

    def __len__(self) -> int:
        return len(self.groups[0])

    # --- covariance -------------------------------------------------------------------------------------------------

    def _combine(self, d2: Tensor, trend_d2: Tensor | None, p: Tensor) -> Tensor:
        """Return the covariance from squared distances: of the scaled groups, and of the trend's coordinates."""
        k, g, alpha = KERNELS[self.kernel_name], len(self.groups), torch.exp(p[-1])
        covariance = torch.exp(p[g]) * k(d2, alpha)
        if trend_d2 is not None:
            covariance = covariance + torch.exp(p[g + 3]) * k(trend_d2 * torch.exp(-2 * p[g + 2]), alpha)
        return covariance

    def scaled(self, rows: IntArray | slice) -> Tensor:
        """Return the inputs of candidates, each group divided by its length scale, side by side."""
        return torch.cat([x[rows] * torch.exp(-p) for x, p in zip(self.groups, self.log_parameters, strict=False)], 1)

    def covariance(self, rows: IntArray | slice, columns: IntArray | slice) -> Tensor:
        """Return the covariance between candidates, without noise."""
        trend_d2 = None if self.trend is None else squared_distance(self.trend[rows], self.trend[columns])
        return self._combine(squared_distance(self.scaled(rows), self.scaled(columns)), trend_d2, self.log_parameters)

    def covariance_of(self, groups: Sequence[Tensor], index: IntArray) -> Tensor:
        """Return the covariance of measurements at ``index``, noise included, were ``groups`` their first inputs."""
        inputs = [*groups, *(group[index] for group in self.groups[len(groups) :])]
        scaled = torch.cat([x * torch.exp(-p) for x, p in zip(inputs, self.log_parameters, strict=False)], 1)
        trend_d2 = None if self.trend is None else squared_distance(self.trend[index], self.trend[index])
        k = self._combine(squared_distance(scaled, scaled), trend_d2, self.log_parameters)
        return k + self.noise * self.identity(len(index))

    def identity(self, n: int) -> Tensor:
        """Return the ``(n, n)`` identity matrix."""
        return torch.eye(n, dtype=torch.float64, device=self.device)

    @property
    def noise(self) -> float:
        """Variance of the measurement noise, of standardised values."""
        return math.exp(self.log_parameters[len(self.groups) + 1]) + JITTER

    @property
    def variance(self) -> float:
        """Prior variance of every candidate."""
        g, p = len(self.groups), self.log_parameters
        return math.exp(p[g]) + (math.exp(p[g + 3]) if self.trend is not None else 0.0)

    # --- learning ---------------------------------------------------------------------------------------------------

    def fit(self, index: IntArray, y: FloatArray, steps: int = 25) -> None:
        """Learn the hyper-parameters from standardised values ``y`` at candidates ``index``.

        Of more than 200 points 200 are used, so that the cost of a step stays bounded.
        """
        chosen = fit_points(len(index))
        index, y = index[chosen], y[chosen]
        d2 = torch.stack([squared_distance(group[index], group[index]) for group in self.groups])
        trend_d2 = None if self.trend is None else squared_distance(self.trend[index], self.trend[index])
        target, g = self.tensor(y), len(self.groups)
        prior_mean, prior_sigma = self.tensor([(s.mean, s.sigma) for s in self._space]).T

        def negative_log_posterior(values: FloatArray) -> tuple[float, FloatArray]:
            p = self.tensor(values).requires_grad_()
            k = self._combine(torch.tensordot(torch.exp(-2 * p[:g]), d2, dims=1), trend_d2, p)
            k = k + (torch.exp(p[g + 1]) + JITTER) * self.identity(len(target))
            value, slope = negative_log_likelihood(k.detach(), target)
            penalty = 0.5 * (((p - prior_mean) / prior_sigma) ** 2).sum()
            ((slope * k).sum() + penalty).backward()
            return value + float(penalty.detach()), cast(Tensor, p.grad).cpu().numpy()

        found = minimize(
            negative_log_posterior, self.log_parameters.numpy(), jac=True, method="L-BFGS-B",
            bounds=[(s.low, s.high) for s in self._space], options={"maxiter": steps, "maxfun": steps + 10},
        )
        self.log_parameters = torch.as_tensor(found.x, device=CPU)

    def condition(self, index: IntArray, y: FloatArray) -> Posterior:
        """Return what standardised values ``y`` at candidates ``index`` say of all candidates."""
        return Posterior(self, index, y)


def fit_points(n: int) -> IntArray:
    """Return which of ``n`` measurements learning uses: all, or 200 of them drawn once for all."""
    return np.sort(np.random.default_rng(0).permutation(n)[:FIT_POINTS])


def negative_log_likelihood(covariance: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return ``-log p(y)`` up to a constant, and its derivative with respect to the covariance.

    The derivative ``(K⁻¹ - a aᵀ) / 2``, ``a = K⁻¹ y`` (Rasmussen & Williams eq. 5.9), given to autograd as a weight,
    saves differentiating through the Cholesky factor: half the time of a fit.
    """
    factor = torch.linalg.cholesky(covariance)
    inverse = torch.cholesky_inverse(factor)
    a = inverse @ y
    value = 0.5 * float(y @ a) + float(factor.diagonal().log().sum())
    return value, 0.5 * (inverse - torch.outer(a, a))


class Posterior:
    """The process given measurements: mean and variance of all candidates, ready for beliefs and draws."""

    def __init__(self, process: GaussianProcess, index: IntArray, y: FloatArray) -> None:
        self.process, self._index = process, index
        self._factor = torch.linalg.cholesky(
            process.covariance(index, index) + process.noise * process.identity(len(index))
        )
        self.y = process.tensor(y)

    @functools.cached_property
    def _white(self) -> Tensor:
        """``L⁻¹ K(measured, all)``: most of the work, not needed to leave one out."""
        total = len(self.process)
        white = torch.empty((len(self._index), total), dtype=torch.float64, device=self.process.device)
        for start in range(0, total, BLOCK):
            block = slice(start, min(start + BLOCK, total))
            white[:, block] = self._solve(self.process.covariance(self._index, block))
        return white

    @functools.cached_property
    def mean(self) -> FloatArray:
        """Expected value of all candidates, ``(N,)``."""
        mean: FloatArray = (self._white.T @ self._solve(self.y[:, None])[:, 0]).cpu().numpy()
        return mean

    @functools.cached_property
    def variance(self) -> FloatArray:
        """Variance of the noise-free value of all candidates, ``(N,)``."""
        variance: FloatArray = (self.process.variance - (self._white**2).sum(0)).clamp_min(1e-12).cpu().numpy()
        return variance

    def _solve(self, right: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(self._factor, right, upper=False)
        return solved

    def leave_one_out(self) -> tuple[FloatArray, FloatArray]:
        """Return error and standard deviation of each measured value as predicted from all the others.

        Rasmussen & Williams eqs 5.10 to 5.12; the standard deviation includes the noise.
        """
        inverse = torch.cholesky_inverse(self._factor)
        variance = 1.0 / inverse.diagonal()
        return (variance * (inverse @ self.y)).cpu().numpy(), variance.sqrt().cpu().numpy()

    def log_likelihood(self) -> float:
        """Return ``log p(y)``, the marginal likelihood of the measured values (Rasmussen & Williams eq. 5.8)."""
        half = self._solve(self.y[:, None])
        determinant = self._factor.diagonal().log().sum()
        return float(-0.5 * (half**2).sum() - determinant) - 0.5 * len(self._index) * math.log(2 * math.pi)

    def copy(self) -> Posterior:
        """Return a copy whose beliefs stay its own; the work done so far is shared."""
        _ = self.mean, self.variance
        return copy.copy(self)

    def believe(self, chosen: int) -> None:
        """Act as if candidate ``chosen`` had been measured and had given the mean ("kriging believer").

        The mean stays, the variance shrinks around it (Ginsbourger et al., Computational Intelligence in Expensive
        Optimization Problems (2010), ch. 6).
        """
        at = np.array([chosen])
        mean = self.mean  # before the factor grows
        row = self.process.covariance(at, slice(None))[0] - self._white.T @ self._white[:, chosen]
        row = row / math.sqrt(self.variance[chosen] + self.process.noise)
        self._white, self.mean = torch.cat([self._white, row[None]]), mean
        self.variance = np.maximum(self.variance - row.cpu().numpy() ** 2, 1e-12)

    def draw(self, count: int, rng: np.random.Generator, features: int = 512) -> FloatArray:
        """Return ``count`` functions drawn from the posterior, ``(count, N)``.

        Prior draws from random Fourier features, corrected by Matheron's rule (Wilson et al., J. Mach. Learn. Res. 22,
        105 (2021)): linear in the number of candidates.
        """
        process, n = self.process, len(self._index)
        prior = _fourier_draws(process, count, features, rng)
        noise = process.tensor(rng.normal(0.0, math.sqrt(process.noise), (n, count)))
        innovation = self._solve(self.y[:, None] - prior[:, self._index].T - noise)
        draws: FloatArray = (prior + innovation.T @ self._white[:n]).cpu().numpy()
        return draws


def _fourier_draws(process: GaussianProcess, count: int, features: int, rng: np.random.Generator) -> Tensor:
    g, p = len(process.groups), process.log_parameters
    parts = [(process.scaled(slice(None)), math.exp(p[g]))]
    if process.trend is not None:
        parts.append((process.trend * math.exp(-p[g + 2]), math.exp(p[g + 3])))
    draws = torch.zeros((count, len(process)), dtype=torch.float64, device=process.device)
    for inputs, signal in parts:
        scale = _spectral_scale(process, features, rng)
        frequency = process.tensor(rng.normal(size=(inputs.shape[1], features)) * scale)
        phase = process.tensor(rng.uniform(0, 2 * math.pi, features))
        weight = process.tensor(rng.normal(size=(features, count))) * math.sqrt(2.0 * signal / features)
        for start in range(0, len(process), BLOCK):
            block = slice(start, start + BLOCK)
            draws[:, block] += (torch.cos(inputs[block] @ frequency + phase) @ weight).T
    return draws


def _spectral_scale(process: GaussianProcess, features: int, rng: np.random.Generator) -> FloatArray:
    """Matérn and rational quadratic are mixtures of RBFs of random width: a gamma-distributed inverse square."""
    if process.kernel_name == "matern52":
        return 1.0 / np.sqrt(rng.gamma(2.5, 1 / 2.5, features))
    if process.kernel_name == "rq":
        alpha = math.exp(process.log_parameters[-1])
        return np.sqrt(rng.gamma(alpha, 1 / alpha, features))
    return np.ones(features)
