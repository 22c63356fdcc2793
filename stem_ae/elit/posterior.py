"""One position from two opinions: the networks', which know lattices, and the likelihood's, which knows the electrons.

With the covariance ``V`` that the Fisher information states, the errors of both are taken as

* likelihood: ``scale V``,
* networks: ``floor^2 + share V`` (what training left, and the part of the noise that they cannot see through),
* in common, as both looked at the same electrons: ``common V``,

and combined with the smallest variance (generalised least squares). The four numbers are learnt on simulated frames of
the model's own conditions, so that the stated covariance is true.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_QUANTILE_95 = 5.991  # of chi squared with two degrees of freedom


@dataclasses.dataclass(frozen=True)
class Posterior:
    """How much both opinions are worth.

    Attributes
    ----------
    floor : float
        Å per axis: the networks' error at any dose.
    share, common, scale : float
        See the module's text.
    """

    floor: float = 0.02
    share: float = 0.3
    common: float = 0.2
    scale: float = 1.3

    def combine(
        self, network: FloatArray, likelihood: FloatArray, covariance: FloatArray, converged: NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray]:
        """Return positions ``(N, 2)`` in Å and their covariance ``(N, 2, 2)`` in Å².

        Parameters
        ----------
        network, likelihood : (N, 2) arrays
            Both opinions, in Å.
        covariance : (N, 2, 2) array
            As the Fisher information states it.
        converged : (N,) bool array
            Where the likelihood's opinion counts at all.
        """
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 1e-8)
        by_network = self.floor**2 + self.share * values
        by_likelihood = self.scale * values
        common = np.minimum(self.common * values, 0.95 * np.minimum(by_network, by_likelihood))
        total = by_network + by_likelihood - 2 * common
        weight = (by_network - common) / total  # of the likelihood, along each principal axis
        variance = (by_network * by_likelihood - common**2) / total
        difference = np.einsum("nji,nj->ni", vectors, likelihood - network)
        # Two opinions further apart than both can be wrong: the fit slid to something else.
        apart = (difference**2 / total).sum(1) > 4 * _QUANTILE_95
        alone = apart | ~converged
        weight = np.where(alone[:, None], 0.0, weight)
        variance = np.where(alone[:, None], by_network, variance)
        position = network + np.einsum("nij,nj->ni", vectors, weight * difference)
        return position, np.einsum("nij,nj,nkj->nik", vectors, variance, vectors)


def learn(network: FloatArray, likelihood: FloatArray, variance: FloatArray) -> Posterior:
    """Learn the four numbers from errors with known truth.

    Parameters
    ----------
    network, likelihood : (N, 2) arrays
        Errors in Å of both opinions about the same atoms.
    variance : (N,) array
        Å² per axis that the Fisher information stated.
    """
    # Atoms that one of them lost say nothing about the usual error.
    usual = (np.abs(network).max(1) < 0.35) & (variance > 0)
    usual &= np.abs(likelihood).max(1) < np.maximum(0.35, 4 * np.sqrt(np.abs(variance)))
    network, likelihood, variance = network[usual], likelihood[usual], variance[usual]
    order = np.argsort(variance)
    groups = np.array_split(order, 12)
    v = np.array([np.median(variance[g]) for g in groups])
    n2 = np.array([(network[g] ** 2).mean() for g in groups])
    m2 = np.array([np.median(np.abs(likelihood[g])) ** 2 / 0.4549 for g in groups])  # of a normal distribution
    nm = np.array([(network[g] * likelihood[g]).mean() for g in groups])
    design = np.column_stack([np.ones_like(v), v]) / n2[:, None]
    floor2, share = np.linalg.lstsq(design, np.ones_like(v), rcond=None)[0]
    floor2, share = max(float(floor2), 1e-4**2), max(float(share), 0.0)
    scale = float(np.median(m2 / v))
    common = float(np.median(np.clip(nm / v, 0, None)))
    first = Posterior(float(np.sqrt(floor2)), share, common, scale)
    return _widened(first, network, likelihood, variance)


def _widened(posterior: Posterior, network: FloatArray, likelihood: FloatArray, variance: FloatArray) -> Posterior:
    """Return the posterior with all variances scaled so that 95 % ellipses hold 95 % of the errors."""
    covariance = variance[:, None, None] * np.eye(2)
    error, stated = posterior.combine(network, likelihood, covariance, np.ones(len(network), bool))
    distance = (error**2).sum(1) / stated[:, 0, 0]
    factor = float(np.quantile(distance, 0.95)) / _QUANTILE_95
    return Posterior(
        posterior.floor * np.sqrt(factor), posterior.share * factor, posterior.common * factor, posterior.scale * factor
    )
