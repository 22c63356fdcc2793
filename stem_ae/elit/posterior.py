"""One position from two opinions: the networks', which know lattices, and the likelihood's, which knows the electrons.

With the covariance ``V`` that the Fisher information states, the errors of both are taken as

* likelihood: ``scale V``,
* networks: ``floor^2 + share V / (1 + V / limit^2)`` (what they cannot follow, above all atoms off their lattice sites,
  and the noise that they cannot see through; however much there is, they do not put atoms far from where atoms can be),
* in common, as both looked at the same electrons: ``common V / sqrt(1 + V / limit^2)``,

and combined with the smallest variance (generalised least squares). The five numbers are learnt on simulated frames of
the model's own conditions, for each class, since networks place heavy atoms better than light ones: they are those
under which the errors of the combined positions are most likely. One of them each frame shows by itself: what the two
opinions differ by beyond the noise is ``floor^2``, so that where the electrons speak clearly the floor is measured,
and the stated covariance is true for a perfect crystal as for one whose atoms are off their sites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Errors = tuple[FloatArray, FloatArray, FloatArray, IntArray]
"""Of one frame: errors ``(N, 2)`` in Å of networks and likelihood, variance ``(N,)`` per axis in Å² that the Fisher
information stated, and classes ``(N,)``."""

_QUANTILE_95 = 5.991  # of chi squared with two degrees of freedom
_FEWEST = 12  # atoms of a class from which a frame says anything about their errors
_FEWEST_FRAMES = 12  # from which a class has numbers of its own
_SURE_OF_FLOOR = 0.6  # relative error of the learnt floor^2 in any one frame
_SURE_OF_NOISE = 0.3  # relative error of what noise should make of the difference
_LEAST_FLOOR = 0.005  # Å
_LOST = 0.05  # Å: opinions that differ by some of these, beyond what both may be wrong by, are not about one atom
_FIRST_LIMIT = 0.06  # Å, to start from
_RANGE = (1e-3, 5.0)  # of any of the five numbers
_FAR_OFF = 1.8  # times the usual square of the likelihood's error, in units of its variance
_STRAY = 16.0  # most that one error's square counts, in units of its variance
_MOST = 80  # atoms of a frame that the numbers are learnt from
_OF_A_MEDIAN = 1.9  # relative error of a variance that the median of N squares gives, times sqrt(N)
_ALIKE = 4.0  # at most, between two variances that are alike


@dataclasses.dataclass(frozen=True)
class Posterior:
    """How much both opinions are worth, one number per class or one for all.

    Attributes
    ----------
    floor : tuple of float
        Å per axis: the networks' error at any dose.
    share, common, scale : tuple of float
        See the module's text.
    limit : tuple of float
        Å per axis: from here on the networks rather trust what they learnt than the noise.
    """

    floor: tuple[float, ...] = (0.02,)
    share: tuple[float, ...] = (0.4,)
    common: tuple[float, ...] = (0.5,)
    scale: tuple[float, ...] = (1.2,)
    limit: tuple[float, ...] = (0.06,)

    def __post_init__(self) -> None:
        """Accept single numbers and lists, as files have them."""
        for field in dataclasses.fields(self):
            numbers = np.atleast_1d(getattr(self, field.name)).tolist()
            object.__setattr__(self, field.name, tuple(numbers))

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
            The atoms' classes.
        """
        groups = np.zeros(len(network), np.int64) if groups is None else groups
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 1e-8)
        position, stated = network.copy(), covariance.copy()
        for group in np.unique(groups):
            own, chosen = self._of(int(group)), groups == group
            seen = chosen & converged
            floor = own.floor_of((network - likelihood)[seen], covariance[seen])
            difference = np.einsum("nji,nj->ni", vectors[chosen], (likelihood - network)[chosen])
            moved, variance = own._weighed(difference, values[chosen], converged[chosen], floor)
            position[chosen] += np.einsum("nij,nj->ni", vectors[chosen], moved)
            stated[chosen] = np.einsum("nij,nj,nkj->nik", vectors[chosen], variance, vectors[chosen])
        return position, stated

    def floor_of(self, difference: FloatArray, covariance: FloatArray) -> float:
        """Return the networks' floor in one frame in Å, from how far the opinions ``(N, 2)`` about a class are apart.

        The learnt floor counts the more, the fewer atoms there are and the less the noise lets through.
        """
        if len(difference) < _FEWEST:
            return self.floor[0]
        stated = np.median(np.diagonal(covariance, axis1=1, axis2=2), axis=0)
        by_network, by_likelihood, common = self._variances(stated)
        by_noise = by_network + by_likelihood - 2 * common
        # The scan shifts its lines along one axis: the other one shows the floor.
        spread = _spread2(difference)
        axis = int(np.argmin(spread - by_noise))
        seen = float(spread[axis] - by_noise[axis])
        known, error = self.floor[0] ** 2, _SURE_OF_NOISE * abs(float(by_noise[axis])) + 0.1 * abs(seen)
        error = np.hypot(error, _OF_A_MEDIAN / np.sqrt(len(difference)) * float(spread[axis]))
        # A frame that is clearly worse than usual is believed.
        trust = error**2 / (error**2 + (_SURE_OF_FLOOR * max(known, seen / 2)) ** 2)
        return float(np.sqrt(max(trust * known + (1 - trust) * seen, _LEAST_FLOOR**2)))

    def _of(self, group: int) -> Posterior:
        """Return the numbers of one class alone."""
        numbers = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Posterior(*((own[min(group, len(own) - 1)],) for own in numbers))

    def _weighed(
        self, difference: FloatArray, values: FloatArray, converged: NDArray[np.bool_], floor: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return how far from the networks' opinion the best one lies, and its variance, along the principal axes."""
        by_network, by_likelihood, common = self._variances(values)
        by_network = floor**2 + by_network
        common = np.minimum(common, 0.95 * np.minimum(by_network, by_likelihood))
        total = by_network + by_likelihood - 2 * common
        # Two opinions further apart than both can be wrong: the fit slid to something else.
        apart = (difference**2 / (total + _LOST**2)).sum(1) > 4 * _QUANTILE_95
        alone = (apart | ~converged)[:, None]
        weight = np.where(alone, 0.0, (by_network - common) / total)  # of the likelihood
        variance = np.where(alone, by_network, (by_network * by_likelihood - common**2) / total)
        return weight * difference, variance

    def _variances(self, stated: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what noise adds to both opinions, and to both alike, given the stated variance, in Å²."""
        saturation = 1 + stated / self.limit[0] ** 2
        common = self.common[0] * stated / np.sqrt(saturation)
        return self.share[0] * stated / saturation, self.scale[0] * stated, common


def learn(frames: Sequence[Errors]) -> Posterior:
    """Learn the five numbers of each class from errors with known truth.

    Parameters
    ----------
    frames : sequence of Errors
        Of both opinions about the same atoms.
    """
    usable = [_usual(*frame) for frame in frames]
    classes = range(1 + max((int(groups.max(initial=0)) for *_, groups in usable), default=0))
    learnt = [_learnt(usable, Posterior())]
    learnt = [_learnt([_of_class(frame, k) for frame in usable], learnt[0]) for k in classes]
    return Posterior(*(tuple(getattr(own, field.name)[0] for own in learnt) for field in dataclasses.fields(Posterior)))


def _learnt(frames: Sequence[Errors], otherwise: Posterior) -> Posterior:
    """Return the numbers that all atoms of some frames have in common."""
    usable = [frame for frame in frames if len(frame[2]) >= _FEWEST]
    if len(usable) < _FEWEST_FRAMES:
        return otherwise
    # Where the image model does not hold, as probes have long tails: they would widen everybody's ellipses.
    off = np.array([_spread2(m / np.sqrt(own)[:, None]).mean() for _, m, own, _ in usable])
    usable = [frame for frame, far in zip(usable, off, strict=True) if far < _FAR_OFF * np.median(off)]
    v = np.array([np.median(variance) for _, _, variance, _ in usable])
    n2 = np.array([_spread2(network).mean() for network, _, _, _ in usable])
    # Both in units of each atom's own stated variance: at a frame's edge and where it is dirty it is larger.
    in_units = [(n / np.sqrt(own)[:, None], m / np.sqrt(own)[:, None]) for n, m, own, _ in usable]
    m2 = np.array([_spread2(m).mean() for _, m in in_units])
    nm = np.array([(_spread2(n + m) - _spread2(n - m)).mean() / 4 for n, m in in_units])
    # Where one is far better than the other, what they share does not matter, and it is not well seen either.
    alike = (m2 * v > n2 / _ALIKE) & (m2 * v < n2 * _ALIKE)
    alike = alike if alike.any() else np.ones(len(v), bool)
    common, scale = float(np.median(nm[alike])), float(np.median(m2))
    floor2, share = np.linalg.lstsq(np.column_stack([1 / n2, v / n2]), np.ones(len(v)), rcond=None)[0]
    start = [np.sqrt(max(floor2, _LEAST_FLOOR**2)), max(share, 0.1), max(common, 0.1), scale, _FIRST_LIMIT]
    few = [(n[:_MOST], m[:_MOST], own[:_MOST], groups[:_MOST]) for n, m, own, groups in usable]

    def unlikely(logarithms: FloatArray) -> float:
        return float(np.mean([_unlikely(*_combined(_posterior(logarithms), frame)) for frame in few]))

    options = {"xatol": 0.02, "fatol": 1e-4, "maxfev": 150}
    found = minimize(unlikely, np.log(start), method="Nelder-Mead", options=options)
    return _widened(_posterior(found.x), usable)


def _posterior(logarithms: FloatArray) -> Posterior:
    """Return the posterior of one class from the logarithms of its five numbers."""
    return Posterior(*((float(number),) for number in np.exp(np.clip(logarithms, *np.log(_RANGE)))))


def _combined(posterior: Posterior, frame: Errors) -> tuple[FloatArray, FloatArray]:
    """Return what the combined opinion is wrong by ``(N, 2)``, and its stated variance ``(N,)`` per axis."""
    network, likelihood, variance, _ = frame
    covariance = variance[:, None, None] * np.eye(2)
    error, stated = posterior.combine(network, likelihood, covariance, np.ones(len(network), bool))
    return error, stated[:, 0, 0]


def _unlikely(error: FloatArray, variance: FloatArray) -> float:
    """Return the mean negative logarithm of the likelihood of errors; strays count no more than so much."""
    return float((np.minimum((error**2).sum(1) / variance, _STRAY) / 2 + np.log(variance)).mean())


def _of_class(frame: Errors, group: int) -> Errors:
    network, likelihood, variance, groups = frame
    chosen = groups == group
    return network[chosen], likelihood[chosen], variance[chosen], groups[chosen]


def _usual(network: FloatArray, likelihood: FloatArray, variance: FloatArray, groups: IntArray) -> Errors:
    """Return the errors without atoms that one of the two lost: they say nothing about the usual error."""
    usual = (np.abs(network).max(1) < 0.35) & (variance > 0)
    usual &= np.abs(likelihood).max(1) < np.maximum(0.35, 4 * np.sqrt(np.abs(variance)))
    return network[usual], likelihood[usual], variance[usual], groups[usual]


def _widened(posterior: Posterior, frames: Sequence[Errors]) -> Posterior:
    """Return the posterior with all variances scaled so that 95 % ellipses hold 95 % of the errors."""
    squares = []
    for frame in frames:
        error, variance = _combined(posterior, frame)
        squares.append((error**2).sum(1) / variance)
    factor = float(np.quantile(np.concatenate(squares), 0.95)) / _QUANTILE_95
    own = posterior
    return Posterior(
        (own.floor[0] * np.sqrt(factor),), (own.share[0] * factor,), (own.common[0] * factor,),
        (own.scale[0] * factor,), own.limit,
    )


def _spread2(differences: FloatArray) -> FloatArray:
    """Return the variance along each axis ``(2,)``, from the median, so that strays do not count."""
    result: FloatArray = np.median(differences**2, axis=0) / 0.4549
    return result
