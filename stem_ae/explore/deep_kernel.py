"""A network that bends the descriptors of image patches so that a Gaussian process on them predicts better."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stem_ae.explore.gaussian_process import GaussianProcess, fit_points, negative_log_likelihood
from stem_ae.torch_device import CPU

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LEAST_POINTS = 30  # below this there is nothing to judge a network by: the identity is kept
VALIDATION = 5  # every fifth measurement never trains the network, it decides when training stops
SURE = 2.0  # standard errors by which a network has to be better than none: the best of several looks flatters it
LOOK, PATIENCE = 5, 3  # optimiser steps between looks at them; looks without improvement before it stops


def held_out(n: int) -> NDArray[np.bool_]:
    """Return which of ``n`` measurements, in the order they came, never train the network."""
    held: NDArray[np.bool_] = np.arange(n) % VALIDATION == VALIDATION - 1
    return held


class Bend(nn.Module):
    """``x + f(x)`` on patch descriptors, where ``f`` begins at zero: training starts from the plain process."""

    def __init__(self, width: int, hidden: int = 48) -> None:
        super().__init__()
        first, middle, last = (
            nn.Linear(a, b, device=CPU) for a, b in ((width, hidden), (hidden, hidden), (hidden, width))
        )  # begun on the CPU: the same seed gives the same network everywhere
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last).to(torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Return the bent inputs; groups come with unit total variance, the layers want about one per entry."""
        bent: Tensor = x + self.layers(3.0 * x)
        return bent


class DeepKernel:
    """Deep kernel learning with the safeguards that few measurements ask for.

    Wilson et al., Deep Kernel Learning, AISTATS (2016), trained by marginal likelihood, over-fits when it has more
    weights than data: on tens of points it does worse than its own inputs. Here the network is a correction to good
    inputs, it is warm-started from step to step, it stops when measurements that never train it are predicted worse,
    and it is set aside unless it predicts them better than no network, by more than twice the standard error of the
    difference.

    Parameters
    ----------
    process : GaussianProcess
        Its first ``bent`` groups go through the network; the rest (position) stays.
    bent : int
    seed : int
    """

    def __init__(self, process: GaussianProcess, bent: int, seed: int) -> None:
        self.process, self._bent = process, bent
        self._plain = list(process.groups[:bent])
        self._widths = [group.shape[1] for group in self._plain]
        self._inputs = torch.cat(self._plain, dim=1)
        torch.manual_seed(seed)
        self._fresh = Bend(self._inputs.shape[1]).to(process.device)
        self._net = copy.deepcopy(self._fresh)
        self.active = False  # whether the network is in use

    def train(self, index: IntArray, y: FloatArray, steps: int) -> None:
        """Train on standardised values ``y`` at candidates ``index`` and bend the process's inputs accordingly."""
        if len(index) >= LEAST_POINTS:
            self._train(index, self.process.tensor(y), steps)
        with torch.no_grad():
            groups = torch.split(self._net(self._inputs), self._widths, dim=1) if self.active else self._plain
        self.process.groups[: self._bent] = list(groups)

    def _train(self, index: IntArray, y: Tensor, steps: int) -> None:
        chosen = fit_points(len(index))
        held = torch.as_tensor(held_out(len(index))[chosen], device=y.device)
        index, y = index[chosen], y[chosen]
        inputs = self._inputs[index]
        with torch.no_grad():
            plain = _log_density(self._covariance(inputs, index), y, held)
        best, state, stale = plain, copy.deepcopy(self._fresh.state_dict()), 0
        optimiser = torch.optim.AdamW(self._net.parameters(), lr=5e-3, weight_decay=1e-2)
        for step in range(steps + 1):
            covariance = self._covariance(self._net(inputs), index)
            if step % LOOK == 0:
                now = _log_density(covariance.detach(), y, held)
                if now.mean() > best.mean():
                    best, state, stale = now, copy.deepcopy(self._net.state_dict()), 0
                elif (stale := stale + 1) >= PATIENCE:
                    break
            _, slope = negative_log_likelihood(covariance.detach()[~held][:, ~held], y[~held])
            optimiser.zero_grad()
            ((slope / len(index)) * covariance[~held][:, ~held]).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self._net.load_state_dict(state)
        gain = best - plain
        self.active = bool(gain.mean() > SURE * gain.std() / len(gain) ** 0.5)

    def _covariance(self, bent: Tensor, index: IntArray) -> Tensor:
        return self.process.covariance_of(list(torch.split(bent, self._widths, dim=1)), index)


def _log_density(covariance: Tensor, y: Tensor, held: Tensor) -> Tensor:
    """Return the log predictive density of each held-out value given the others."""
    known = ~held
    factor = torch.linalg.cholesky(covariance[known][:, known])
    white = torch.linalg.solve_triangular(factor, covariance[known][:, held], upper=False)
    mean = white.T @ torch.linalg.solve_triangular(factor, y[known][:, None], upper=False)[:, 0]
    variance = covariance.diagonal()[held] - (white**2).sum(0)
    density: Tensor = -0.5 * (y[held] - mean) ** 2 / variance - 0.5 * variance.log()
    return density
