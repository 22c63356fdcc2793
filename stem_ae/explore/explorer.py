"""Where to measure next: the explorer, with an ask / tell interface."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae import checks
from stem_ae.atoms import as_sampling
from stem_ae.descriptors.fourier import FourierModulus
from stem_ae.descriptors.patches import CircularHarmonics, LocalShape, PrincipalComponents
from stem_ae.descriptors.windows import Windows, as_image, regular_centres
from stem_ae.errors import StemAeError
from stem_ae.explore import path
from stem_ae.explore.acquisition import AcquisitionName, acquisition, situation, uncertainty
from stem_ae.explore.gaussian_process import KernelName
from stem_ae.explore.surrogates import (
    AutomaticSurrogate,
    Candidates,
    DeepKernelSurrogate,
    DescriptorSurrogate,
    JudgeName,
    PositionSurrogate,
    Prediction,
    Surrogate,
    SurrogateName,
)
from stem_ae.torch_device import DeviceName, device_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_CANDIDATES = 65_536  # a default grid is thinned to so many, which keeps a step below two seconds
COMPONENTS = 16


class Explorer:
    """Chooses where to measure a property, from an image of the specimen and the measurements so far.

    Parameters
    ----------
    image : (H, W) array
        Survey image.
    sampling : float or (float, float)
        Å per pixel, one number or (y, x).
    surrogate : "dkl", "descriptor", "gp" or "auto"
        Deep kernel on image patches; Gaussian process on descriptors; on position alone; or whichever of them explains
        the measurements so far best.
    acquisition : "ei", "pi", "ucb", "uncertainty", "thompson" or "novelty"
        See :mod:`stem_ae.explore.acquisition`.
    patch : int
        Edge in pixels of the image patches that the surrogate sees.
    seed : int
        The same seed, image and measurements give the same points.
    candidates : (k, 2) integer array, optional
        Row and column of the patch centres that may be measured. By default all whole patches of the image on a
        regular grid, one pixel apart, or farther if they were more than 65 536.
    features : (k, d) array, optional
        Descriptors of the candidates to use instead of the built-in ones: latent variables, unmixing abundances,
        features of a network.
    kernel : "matern52", "rbf" or "rq"
        Covariance function of the Gaussian process ("auto" tries all on position).
    length_scale : float, optional
        In Å, of the ``"gp"`` surrogate; learnt when not given.
    feature : float
        Share of the candidates that is looked for. Improvement counts from the value this share is expected to reach,
        so that a whole feature is collected and not its highest point only; 0 counts from the best measured value.
    beta : float
        Weight of the standard deviation in ``"ucb"``.
    min_distance : float
        In Å: no candidate nearer than this to a measured one is asked for. The default is about the probe's diameter:
        it keeps exposures apart on an atomic scale, and is no restriction on a grid of nanometres. 0: only the
        measured candidates themselves are closed.
    travel : float
        What a move across the whole specimen costs, in units of the gain of the best candidate over the median one.
    dose_per_point, dose_budget : float, optional
        In any one unit (electrons, s, C): no more points are asked for than the budget pays.
    judge : "likelihood" or "left-out"
        What "auto" chooses by: marginal likelihood, or the prediction of left-out measurements.
    device : "cpu", "cuda" or "auto"
        Where the surrogate is computed; "auto": what ``STEM_AE_DEVICE`` says, or else a GPU if there is one.
    """

    def __init__(
        self,
        image: ArrayLike,
        *,
        sampling: float | tuple[float, float] = 1.0,
        surrogate: SurrogateName = "dkl",
        acquisition: AcquisitionName = "ei",
        patch: int = 16,
        seed: int = 0,
        candidates: ArrayLike | None = None,
        features: ArrayLike | None = None,
        kernel: KernelName = "matern52",
        length_scale: float | None = None,
        feature: float = 0.02,
        beta: float = 2.0,
        min_distance: float = path.APART,
        travel: float = 0.0,
        dose_per_point: float = 0.0,
        dose_budget: float = np.inf,
        judge: JudgeName = "likelihood",
        device: DeviceName = "cpu",
    ) -> None:
        image = as_image(image)
        checks.share(feature, "The share looked for")
        for name, value in (
            ("beta", beta), ("min_distance", min_distance), ("travel", travel), ("dose_per_point", dose_per_point),
        ):  # fmt: skip
            checks.number(value, name, least=0.0)
        checks.budget(dose_budget, "dose_budget")
        patch, seed = checks.whole(patch, "patch"), checks.whole(seed, "seed", 0, checks.MOST_SEED)
        centres = _default_centres(image, patch) if candidates is None else candidates
        self._windows = Windows(image, np.asarray(centres), patch)
        self.sampling = as_sampling(sampling)
        self.acquisition_name, self.feature, self.beta = acquisition, feature, beta
        self.min_distance, self.travel = min_distance, travel
        self.dose_per_point, self.dose_budget = dose_per_point, dose_budget
        self._acquire = _acquisition_of(acquisition)
        self._where = {(int(r), int(c)): k for k, (r, c) in enumerate(self.candidates)}
        if len(self._where) < len(self.candidates):
            raise StemAeError("A candidate is given twice: give each (row, column) once.")
        self._position = self.candidates * np.array(self.sampling)
        self._seed = seed
        groups = _descriptors(surrogate, self._windows, features)
        known = Candidates(self._position, groups, device_of(device))
        self._make_surrogate = functools.partial(_make_surrogate, surrogate, known, kernel, length_scale, seed, judge)
        self._begin()

    def _begin(self) -> None:
        self._rng, self._map_rng = np.random.default_rng(self._seed).spawn(2)  # looking at maps changes no course
        self._surrogate = self._make_surrogate()
        self._index: list[int] = []
        self._values: list[float] = []
        self._open = np.ones(len(self.candidates), dtype=bool)  # which candidates may still be exposed
        self._prediction: Prediction | None = None
        self._acquisition: FloatArray | None = None

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def candidates(self) -> IntArray:
        """Row and column of all candidates, ``(N, 2)``."""
        return self._windows.centres

    @property
    def points(self) -> IntArray:
        """Row and column of the measurements so far, in order, ``(n, 2)``."""
        return self.candidates[self.measured]

    @property
    def measured(self) -> IntArray:
        """Which candidates were measured, in order: rows of :attr:`candidates`, ``(n,)``."""
        return np.array(self._index, dtype=np.int64)

    @property
    def values(self) -> FloatArray:
        """Values told so far, ``(n,)``."""
        return np.array(self._values, dtype=float)

    @property
    def mean(self) -> FloatArray:
        """Map of the predicted property, shape of the candidate grid (``(N,)`` if they do not fill a grid)."""
        return self._windows.as_map(self._predict().mean)

    @property
    def std(self) -> FloatArray:
        """Map of the prediction's standard deviation: twice it holds about 95 % of the errors."""
        return self._windows.as_map(self._predict().std)

    @property
    def acquisition(self) -> FloatArray:
        """Map of what a measurement is worth, before travel; places that may not be measured carry its minimum."""
        if self._acquisition is None:
            self._acquisition = self._score(self._predict(), *self._known(), self._map_rng)
        gain = self._acquisition
        return self._windows.as_map(np.where(self._open, gain, gain.min()))

    @property
    def affordable(self) -> int:
        """How many more points the dose budget and the candidates allow."""
        left = int(self._open.sum())
        if self.dose_per_point > 0 and np.isfinite(self.dose_budget):
            spent = len(self._index) * self.dose_per_point
            left = min(left, int((self.dose_budget - spent) / self.dose_per_point + 1e-9))
        return max(left, 0)

    # --- ask and tell -----------------------------------------------------------------------------------------------

    def ask(self, batch: int = 1, pending: ArrayLike = ()) -> IntArray:
        """Return where to measure next, ``(k, 2)`` row and column, in the order of a short way of the beam.

        Points that are ``pending``, ``(m, 2)``, are being measured while this is decided: they too are believed to give
        what is predicted, and count in the dose.

        ``k`` is ``batch``, or less when candidates or dose run out; an empty answer ends the experiment. Before
        anything was told the points spread over the specimen. Within a batch each point is believed to give what is
        predicted, so that the next is not asked for beside it.
        """
        if batch < 1:
            raise StemAeError(f"A batch of {batch} points was asked for: ask for at least one.")
        chosen: list[int] = []
        index, values = self._known()
        prediction = self._predict().copy()
        under_way = self._indices(pending)
        open_ = self._open & ~self._near(under_way)
        for place in under_way:
            index, values = np.append(index, place), np.append(values, prediction.mean[place])
            prediction.believe(place)
        taken = [*self._index, *under_way]
        for _ in range(min(batch, max(self.affordable - len(under_way), 0))):
            if not open_.any():
                break
            gain = self._score(prediction, index, values, self._rng)
            if not chosen and not under_way:
                self._acquisition = gain
            if self.travel > 0 and (been := chosen or taken):
                distance = np.hypot(*(self._position - self._position[been[-1]]).T)
                gain = path.gain_less_travel(gain, distance, open_, self.travel)
            best = int(self._rng.choice(np.flatnonzero(open_ & (gain >= gain[open_].max()))))
            chosen.append(best)
            open_ &= ~self._near([best])
            if len(chosen) < batch:
                index, values = np.append(index, best), np.append(values, prediction.mean[best])
                prediction.believe(best)
        if len(chosen) > 1:
            start = self._position[taken[-1] if taken else chosen[0]]
            chosen = [chosen[k] for k in path.short_route(self._position[chosen], start)]
        return self.candidates[np.array(chosen, dtype=np.int64)]

    def tell(self, points: ArrayLike, values: ArrayLike) -> None:
        """Take note of measured values ``(k,)`` at candidates ``points (k, 2)``.

        A value of NaN says that the place was exposed and gave nothing usable: it is not asked for again, and nothing
        is learnt from it.

        Raises
        ------
        StemAeError
            If they do not belong together or a point is no candidate.
        """
        index = self._indices(points)
        numbers = np.asarray(values, dtype=float).reshape(-1)
        if len(index) != len(numbers):
            raise StemAeError(f"{len(index)} points were told with {len(numbers)} values: give one value per point.")
        if np.any(np.isinf(numbers)):
            raise StemAeError("An infinite value was told: give NaN for a measurement that failed.")
        self._index += index
        self._values += numbers.tolist()
        self._open &= ~self._near(index)
        self._prediction = self._acquisition = None

    def with_values(self, values: ArrayLike) -> Explorer:
        """Return what this explorer would be, had the same points given other values.

        To switch the scalarizer in mid-run, or to see what another one would have asked for: scalarize the stored
        spectra again and pass the result. It goes its own way from then on.
        """
        other = copy.copy(self)
        other._begin()
        other.tell(self.points, values)
        return other

    # --- inner workings ---------------------------------------------------------------------------------------------

    def _indices(self, points: ArrayLike) -> list[int]:
        try:
            return [self._where[int(row), int(column)] for row, column in np.asarray(points).reshape(-1, 2)]
        except KeyError as error:
            raise StemAeError(f"The point {error.args[0]} is not among the candidates: tell points that were asked for."
                              ) from None

    def _known(self) -> tuple[IntArray, FloatArray]:
        """Return indices and values of the measurements that gave a value."""
        values = self.values
        usable = np.isfinite(values)
        return self.measured[usable], values[usable]

    def _predict(self) -> Prediction:
        if self._prediction is None:
            self._prediction = self._surrogate.predict(*self._known())
        return self._prediction

    def _score(
        self, prediction: Prediction, index: IntArray, values: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        now = situation(prediction, values, index, self.feature, self.beta, rng)
        return self._acquire(now) if len(self._known()[0]) else uncertainty(now)

    def _near(self, index: list[int]) -> NDArray[np.bool_]:
        """Return which candidates are exposed, or nearly so, when those at ``index`` are."""
        return path.within(self._position, self._position[index], self.min_distance)


_acquisition_of = acquisition  # the constructor's parameter of this name is part of the contract


def _default_centres(image: FloatArray, patch: int) -> IntArray:
    shape, step = (image.shape[0], image.shape[1]), 1
    while len(centres := regular_centres(shape, patch, step)) > MAX_CANDIDATES:
        step += 1
    return centres


def _descriptors(name: str, windows: Windows, features: ArrayLike | None) -> tuple[FloatArray, ...]:
    """Return what a surrogate is told of the image."""
    if name == "gp":
        return ()
    return _describe(windows) if features is None else (_given(features, len(windows)),)


def _make_surrogate(
    name: str, candidates: Candidates, kernel: KernelName, length_scale: float | None, seed: int, judge: JudgeName
) -> Surrogate:
    if name == "gp":
        return PositionSurrogate(candidates, kernel, length_scale)
    if name not in ("descriptor", "dkl", "auto"):
        raise StemAeError(f"There is no surrogate {name!r}: choose gp, descriptor, dkl or auto.")
    if length_scale is not None:
        raise StemAeError('length_scale belongs to surrogate="gp": the others learn theirs.')
    if name == "descriptor":
        return DescriptorSurrogate(candidates, kernel)
    if name == "dkl":
        return DeepKernelSurrogate(candidates, kernel, seed)
    return AutomaticSurrogate(candidates, seed, judge)


def _describe(windows: Windows) -> tuple[FloatArray, ...]:
    """Return the built-in descriptors: patches, their Fourier modulus, their circular harmonics, local shape.

    The first know where in the patch things are, the second what lattice there is wherever its origin, the third what
    there is however it is turned, the fourth what the patch's middle is like, however turned and more finely. The
    surrogate learns which of them matter.
    """
    shape = LocalShape(windows.size)
    views: list[Callable[[FloatArray], FloatArray]] = [
        lambda block: block.reshape(len(block), -1), FourierModulus(windows.size).transform,
        CircularHarmonics(windows.size).transform,
    ]  # fmt: skip
    reduced = [PrincipalComponents.fit(map(view, windows.blocks()), COMPONENTS) for view in views]
    groups = [
        np.concatenate([components.transform(view(block)) for block in windows.blocks()])
        for components, view in zip(reduced, views, strict=True)
    ]
    local = np.concatenate([shape.transform(block) for block in windows.blocks()])
    spread = local.std(axis=0)
    return *groups, local / np.where(spread > 1e-9 * spread.max(initial=0.0), spread, 1.0)


def _given(features: ArrayLike, count: int) -> FloatArray:
    array = np.asarray(features, dtype=float)
    array = array.reshape(len(array), -1)
    if len(array) != count or not np.all(np.isfinite(array)):
        raise StemAeError(f"features must be {count} rows (one per candidate) of finite numbers, not {array.shape}.")
    return array / np.where(array.std(axis=0) > 0, array.std(axis=0), 1.0)
