"""One position from two opinions: the networks', which know lattices, and the likelihood's, which knows the electrons.

With the covariance ``V`` that the Fisher information states, the errors of both are taken as

* likelihood: ``scale V``,
* networks: ``floor^2 + share V / (1 + V / limit^2)`` (what they cannot follow, above all atoms off their lattice sites,
  and the noise that they cannot see through; however much there is, they do not put atoms far from where atoms can be),
* in common, as both looked at the same electrons: ``common V / sqrt(1 + V / limit^2)``,

and combined with the smallest variance (generalised least squares). The five numbers are learnt on simulated frames of
the model's own conditions. One of them each frame shows by itself: what the two opinions differ by beyond the noise is
``floor^2``, so that where the electrons speak clearly the floor is measured, and the stated covariance is true for a
perfect crystal as for one whose atoms are off their sites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Errors = tuple[FloatArray, FloatArray, FloatArray, IntArray]
"""Of one frame: errors ``(N, 2)`` in Å of networks and likelihood, variance ``(N,)`` per axis in Å² that the Fisher
information stated, and classes ``(N,)``."""

_QUANTILE_95 = 5.991  # of chi squared with two degrees of freedom
_FEWEST = 30  # atoms from which a frame's own floor can be told
_SURE_OF_FLOOR = 0.6  # relative error of the learnt floor^2 in any one frame
_SURE_OF_NOISE = 0.3  # relative error of what noise should make of the difference
_LEAST_FLOOR = 0.005  # Å
_LIMITS = (0.03, 0.04, 0.05, 0.06, 0.08, 0.11)  # Å, to choose from
_ALIKE = 4.0  # at most, between two variances that are alike


@dataclasses.dataclass(frozen=True)
class Posterior:
    """How much both opinions are worth.

    Attributes
    ----------
    floor : float
        Å per axis: the networks' error at any dose.
    share, common, scale : float
        See the module's text.
    limit : float
        Å per axis: from here on the networks rather trust what they learnt than the noise.
    """

    floor: float = 0.02
    share: float = 0.4
    common: float = 0.5
    scale: float = 1.2
    limit: float = 0.06

    def combine(
        self,
        network: FloatArray,
        likelihood: FloatArray,
        covariance: FloatArray,
        converged: NDArray[np.bool_],
        groups: IntArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return positions ``(N, 2)`` in Å and their covariance ``(N, 2, 2)`` in Å².

        Parameters
        ----------
        network, likelihood : (N, 2) arrays
            Both opinions of one frame, in Å.
        covariance : (N, 2, 2) array
            As the Fisher information states it.
        converged : (N,) bool array
            Where the likelihood's opinion counts at all.
        groups : (N,) int array, optional
            Atoms of one class: networks place heavy atoms better than light ones, so each has its floor.
        """
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 1e-8)
        floor = self._floors(network - likelihood, covariance, converged, groups)[:, None]
        by_network, by_likelihood, common = self._variances(values)
        by_network = floor**2 + by_network
        common = np.minimum(common, 0.95 * np.minimum(by_network, by_likelihood))
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

    def floor_of(self, difference: FloatArray, covariance: FloatArray) -> float:
        """Return the networks' floor in one frame in Å, from how far the opinions ``(N, 2)`` are apart.

        The learnt floor counts the more, the less the noise lets through.
        """
        if len(difference) < _FEWEST:
            return self.floor
        stated = np.median(np.diagonal(covariance, axis1=1, axis2=2), axis=0)
        by_network, by_likelihood, common = self._variances(stated)
        by_noise = by_network + by_likelihood - 2 * common
        # The scan shifts its lines along one axis: the other one shows the floor.
        axis = int(np.argmin(_spread2(difference) - by_noise))
        seen = float(_spread2(difference)[axis] - by_noise[axis])
        known, error = self.floor**2, _SURE_OF_NOISE * abs(float(by_noise[axis])) + 0.1 * abs(seen)
        trust = error**2 / (error**2 + (_SURE_OF_FLOOR * known) ** 2)
        return float(np.sqrt(max(trust * known + (1 - trust) * seen, _LEAST_FLOOR**2)))


    def _floors(
        self, difference: FloatArray, covariance: FloatArray, converged: NDArray[np.bool_], groups: IntArray | None
    ) -> FloatArray:
        """Return the floor of each atom, that of its group if it is large enough."""
        floors = np.full(len(difference), self.floor_of(difference[converged], covariance[converged]))
        for group in np.unique(groups) if groups is not None else ():
            chosen = converged & (groups == group)
            if chosen.sum() >= _FEWEST:
                floors[groups == group] = self.floor_of(difference[chosen], covariance[chosen])
        return floors

    def _variances(self, stated: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what noise adds to both opinions, and to both alike, given the stated variance, in Å²."""
        saturation = 1 + stated / self.limit**2
        return self.share * stated / saturation, self.scale * stated, self.common * stated / np.sqrt(saturation)


def learn(frames: Sequence[Errors]) -> Posterior:
    """Learn the five numbers from errors with known truth.

    Parameters
    ----------
    frames : sequence of Errors
        Of both opinions about the same atoms.
    """
    usable = [_usual(*frame) for frame in frames]
    usable = [frame for frame in usable if len(frame[2]) >= _FEWEST]
    if len(usable) < 2:
        return Posterior()
    v = np.array([np.median(variance) for _, _, variance, _ in usable])
    n2 = np.array([_spread2(network).mean() for network, _, _, _ in usable])
    # Both in units of each atom's own stated variance: heavy and light atoms differ in it.
    in_units = [(n / np.sqrt(own)[:, None], m / np.sqrt(own)[:, None]) for n, m, own, _ in usable]
    m2 = np.array([_spread2(m).mean() for _, m in in_units])
    nm = np.array([(_spread2(n + m) - _spread2(n - m)).mean() / 4 for n, m in in_units])
    # Where one is far better than the other, what they share does not matter, and it is not well seen either.
    alike = (m2 * v > n2 / _ALIKE) & (m2 * v < n2 * _ALIKE)
    alike = alike if alike.any() else np.ones(len(v), bool)
    floor2, share, limit = _network_error(v, n2)
    common = float(np.median((nm * np.sqrt(1 + v / limit**2))[alike]))
    scale = float(np.median(m2[alike]))
    floor = float(np.sqrt(max(floor2, _LEAST_FLOOR**2)))
    return _widened(Posterior(floor, max(share, 0.1), max(common, 0.0), scale, limit), usable)


def _network_error(stated: FloatArray, seen: FloatArray) -> tuple[float, float, float]:
    """Return floor², share and limit for which the networks' error fits what was seen in each frame ``(F,)``."""
    best = (np.inf, 0.0, 0.0, 1.0)
    for limit in _LIMITS:
        design = np.column_stack([np.ones_like(stated), stated / (1 + stated / limit**2)]) / seen[:, None]
        floor2, share = np.linalg.lstsq(design, np.ones_like(stated), rcond=None)[0]
        off = float(np.abs(design @ [floor2, share] - 1).sum())
        if off < best[0]:
            best = off, float(floor2), float(share), float(limit)
    return best[1:]


def _usual(network: FloatArray, likelihood: FloatArray, variance: FloatArray, groups: IntArray) -> Errors:
    """Return the errors without atoms that one of the two lost: they say nothing about the usual error."""
    usual = (np.abs(network).max(1) < 0.35) & (variance > 0)
    usual &= np.abs(likelihood).max(1) < np.maximum(0.35, 4 * np.sqrt(np.abs(variance)))
    return network[usual], likelihood[usual], variance[usual], groups[usual]


def _widened(posterior: Posterior, frames: Sequence[Errors]) -> Posterior:
    """Return the posterior with all variances scaled so that 95 % ellipses hold 95 % of a usual frame's errors."""
    factors = []
    for network, likelihood, variance, groups in frames:
        covariance = variance[:, None, None] * np.eye(2)
        error, stated = posterior.combine(network, likelihood, covariance, np.ones(len(network), bool), groups)
        factors.append(float(np.quantile((error**2).sum(1) / stated[:, 0, 0], 0.95)) / _QUANTILE_95)
    factor = float(np.median(factors))
    return dataclasses.replace(
        posterior,
        floor=float(posterior.floor * np.sqrt(factor)),
        share=posterior.share * factor,
        common=posterior.common * factor,
        scale=posterior.scale * factor,
    )


def _spread2(differences: FloatArray) -> FloatArray:
    """Return the variance along each axis ``(2,)``, from the median, so that strays do not count."""
    result: FloatArray = np.median(differences**2, axis=0) / 0.4549
    return result
