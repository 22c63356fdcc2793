"""How much a measurement at each candidate is worth.

An acquisition function takes the :class:`~stem_ae.explore.surrogates.Prediction` and what is known, and returns one
number per candidate; larger is better. None has a scale that compares with another's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from stem_ae.errors import StemAeError
from stem_ae.explore.surrogates import Prediction

FloatArray = NDArray[np.float64]
AcquisitionName = Literal["ei", "pi", "ucb", "uncertainty", "thompson", "novelty"]

NEIGHBOURS = 5  # known values that the novelty of a new one is measured against


@dataclasses.dataclass(frozen=True)
class Situation:
    """What an acquisition function judges by.

    Parameters
    ----------
    mean, std : (N,) arrays
        Prediction of every candidate, in the property's units.
    level : float
        Value from which on a place belongs to what is looked for.
    known : (n,) array
        Values measured so far (and believed, inside a batch).
    beta : float
        Weight of the standard deviation in ``ucb``.
    draw : function
        Returns one function ``(N,)`` drawn from the posterior.
    """

    mean: FloatArray
    std: FloatArray
    level: float
    known: FloatArray
    beta: float
    draw: Callable[[], FloatArray]


def expected_improvement(s: Situation) -> FloatArray:
    """Return ``E[max(f - level, 0)]``.

    Jones, Schonlau & Welch, J. Global Optim. 13, 455 (1998). With the best measured value as the level this is the
    textbook function, which looks for one maximum; with the level of the sought feature it collects the feature.
    """
    z = (s.mean - s.level) / s.std
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement: FloatArray = s.std * np.maximum(z * ndtr(z) + density, 0.0)
    return improvement


def probability_of_improvement(s: Situation) -> FloatArray:
    """Return ``P(f > level)`` (Kushner, J. Basic Eng. 86, 97 (1964))."""
    probability: FloatArray = np.exp(log_ndtr((s.mean - s.level) / s.std))
    return probability


def upper_confidence_bound(s: Situation) -> FloatArray:
    """Return ``mean + beta std`` (Srinivas et al., ICML (2010))."""
    return s.mean + s.beta * s.std


def uncertainty(s: Situation) -> FloatArray:
    """Return the standard deviation: map the property evenly well everywhere."""
    return s.std


def thompson(s: Situation) -> FloatArray:
    """Return a function drawn from the posterior: each place is chosen as often as it is believed to be the best."""
    return s.draw()


def novelty(s: Situation) -> FloatArray:
    """Return how far a drawn function's values lie from the nearest known ones: look for values not seen yet.

    Novelty search by Thompson sampling (Tang, Wang & Paulson's BEACON, arXiv:2406.03616).
    """
    drawn = s.draw()
    if len(s.known) == 0:
        return np.ones_like(drawn)
    known = np.sort(s.known)
    k = min(NEIGHBOURS, len(known))
    # In one dimension the k nearest are among the k to either side
    around = np.searchsorted(known, drawn)[:, None] + np.arange(-k, k)[None]
    outside = (around < 0) | (around >= len(known))
    distance = np.abs(known[np.clip(around, 0, len(known) - 1)] - drawn[:, None])
    distance[outside] = np.inf
    nearest: FloatArray = np.sort(distance, axis=1)[:, :k].mean(axis=1)
    return nearest


ACQUISITIONS: dict[str, Callable[[Situation], FloatArray]] = {
    "ei": expected_improvement,
    "pi": probability_of_improvement,
    "ucb": upper_confidence_bound,
    "uncertainty": uncertainty,
    "thompson": thompson,
    "novelty": novelty,
}


def acquisition(name: str) -> Callable[[Situation], FloatArray]:
    """Return an acquisition function by its name.

    Raises
    ------
    StemAeError
        If there is none.
    """
    try:
        return ACQUISITIONS[name]
    except KeyError:
        raise StemAeError(f"There is no acquisition {name!r}: choose one of {', '.join(ACQUISITIONS)}.") from None


def situation(
    prediction: Prediction, known: FloatArray, measured: NDArray[np.int64], feature: float, beta: float,
    rng: np.random.Generator,
) -> Situation:
    """Return the situation after some measurements, some of them perhaps only believed.

    The level is the value that a share ``feature`` of the candidates is expected to reach, the prediction's
    uncertainty included: high while little is known, so that the search goes on, and that of the feature itself in the
    end. With ``feature = 0`` it is the best measured value.
    """
    mean, std = prediction.mean, prediction.std
    level = _level(mean, std, known, measured, feature) if feature > 0 else float(np.max(known, initial=-np.inf))
    return Situation(mean, std, level, known, beta, lambda: prediction.draw(1, rng)[0])


def _level(
    mean: FloatArray, std: FloatArray, known: FloatArray, measured: NDArray[np.int64], feature: float
) -> float:
    """Solve ``sum_i P(f_i > level) = feature N`` by bisection; measured candidates count with their values."""
    mean, std = mean.copy(), std.copy()
    mean[measured], std[measured] = known, 0.0
    thin = slice(None, None, max(len(mean) // 8192, 1))  # a share is known well enough from 8192 candidates
    mean, std = mean[thin], np.maximum(std[thin], 1e-9 * std.max())
    low, high = float((mean - 4 * std).min()), float((mean + 4 * std).max())
    for _ in range(40):
        middle = 0.5 * (low + high)
        if ndtr((mean - middle) / std).sum() > feature * len(mean):
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
