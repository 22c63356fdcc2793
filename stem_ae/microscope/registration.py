"""The shift between two images of the same field, its uncertainty, and whether it can be determined at all.

A crystal looks the same one period further. Which period is meant, images of a few counts per pixel do not tell: the
highest peak of their correlation is one of many, chosen by noise. So each peak is weighed: by what the images say of it
against the others, as far as that is more than noise, and by where the specimen is expected to be. If no peak outweighs
all others together a thousand to one, or none rises above the noise, there is no answer, and that is said.

The images are compared at all frequencies at which they show more than noise (averaged over rings, so that the filter
is compact), each with the weight ``S / (N1 N2 + S (N1 + N2))`` of the maximum-likelihood delay estimator (Knapp &
Carter, IEEE Trans. Acoust. Speech Signal Process. 24, 320 (1976)), over the pixels that both have. The noise ``N`` is
what remains when one image is laid over the other: shot noise, distortions and changes of the specimen alike.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, signal

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

STRENGTH = 6.0
"""Least height of a peak in standard deviations of the noise; in pure noise the highest one reaches 4.5."""
DOUBT = 1e-3
"""Largest probability that another peak is the right one."""
JUMP = 1e-3
"""Probability that the specimen is somewhere else than expected, anywhere within reach."""
REACH = 0.25
"""Largest shift that is searched, as a fraction of the image's shorter side."""
_EARNEST = 3.0  # standard deviations by which a peak must fit better than another before the difference counts
_ALIKE = 0.02  # of the signal: difference between a crystal's repeats that distortion alone may cause
_PEAK = 0.4  # of the highest peak: lower ones are ignored
_MOST_PEAKS, _COMPARED = 200, 24
_SURE = 9.0  # nats: a peak that the images make less likely by this is not a repeat
_RING = 2.0  # standard errors above the noise, from which a ring of frequencies counts
_FLOOR = 0.02  # pixels: least standard deviation of a shift
_STEP = 0.25  # pixels
_SPIKES, _SPIKE = 1e-3, 10.0  # so few pixels that are so many times as far from the median as the next ones
_EDGE = 0.25  # of a window's length, over which it falls off


@dataclasses.dataclass(frozen=True)
class Registration:
    """The registration of an image with a reference."""

    shift: tuple[float, float]
    """Shift of the image against the reference, rows and columns in pixels."""
    deviation: float
    """Standard deviation of that along each axis, in pixels."""
    strength: float
    """Height of the peak in standard deviations of the noise."""
    doubt: float
    """Probability that another peak is the right one."""
    repeat: float
    """Pixels to the nearest shift that looks the same in these images; infinity if there is none within reach."""

    @property
    def is_weak(self) -> bool:
        """Whether the peak may be noise. More scans or more dose help."""
        return not self.strength >= STRENGTH

    @property
    def is_doubtful(self) -> bool:
        """Whether several shifts are possible, given the images and the expected shift."""
        return not self.doubt <= DOUBT


def register(
    reference: ArrayLike, image: ArrayLike, expected: tuple[float, float] = (0.0, 0.0), deviation: float = math.inf,
    scans: int = 1,
) -> Registration:  # fmt: skip
    """Register an image with a reference of the same field. Pixels that are NaN or infinite, and spikes, are left out.

    Parameters
    ----------
    reference, image : (H, W) arrays
    expected : (float, float)
        The shift that is expected, rows and columns in pixels.
    deviation : float
        How well it is known: standard deviation along each axis in pixels. Infinity: not at all.
    scans : int
        How many scans the image is the mean of.

    Raises
    ------
    StemAeError
        If the images have different shapes or show nothing. A weak or doubtful result is returned: see
        :attr:`Registration.is_weak` and :attr:`Registration.is_doubtful`.
    """
    first, second = np.asarray(reference, float), np.asarray(image, float)
    if first.shape != second.shape or first.ndim != 2:
        raise StemAeError(f"Images of {first.shape} and {second.shape} pixels cannot be registered.")
    first, second = _without_spikes(first), _without_spikes(second)
    pair = _Pair(first, second, scans)
    peaks = pair.peaks()
    if not len(peaks):
        return Registration((0.0, 0.0), math.inf, 0.0, 1.0, math.inf)
    heights = np.array([pair.height(peak) for peak in peaks])
    errors = np.array([pair.deviation(peak) for peak in peaks])
    prior = _log_prior(peaks, expected, np.hypot(deviation, errors), pair.reach)
    evidence = pair.evidence(peaks, heights, prior)
    weight = np.exp(prior + evidence - (prior + evidence).max())
    best = int(weight.argmax())
    as_likely = evidence > evidence[best] - _SURE
    as_likely[best] = False
    away = np.hypot(*(peaks - peaks[best]).T)
    return Registration(
        shift=_refined(first, second, peaks[best], scans),
        deviation=float(errors[best]),
        strength=pair.strength(peaks[best]),
        doubt=float((weight.sum() - weight[best]) / weight.sum()),
        repeat=float(away[as_likely].min(initial=math.inf)),
    )


def shift_between(
    reference: ArrayLike, image: ArrayLike, expected: tuple[float, float] = (0.0, 0.0), deviation: float = math.inf
) -> tuple[float, float]:
    """Return the shift of the image against the reference, rows and columns in pixels.

    Raises
    ------
    StemAeError
        If that cannot be told: the images have different shapes, show nothing, have nothing in common above the noise,
        or several shifts are possible. The parameters are those of :func:`register`.
    """
    found = register(reference, image, expected, deviation)
    if found.is_weak:
        raise StemAeError("These images show nothing in common above the noise: scan slower, or somewhere else.")
    if found.is_doubtful:
        raise StemAeError(
            f"These images look the same {found.repeat:.1f} pixels further: state the expected shift more precisely."
        )
    return found.shift


def _refined(first: FloatArray, second: FloatArray, peak: FloatArray, scans: int) -> tuple[float, float]:
    """Refine a shift using only the area that both images show."""
    shift = np.rint(peak).astype(int)
    parts = _overlap(first, shift), _overlap(second, -shift)
    window = np.outer(*(signal.windows.tukey(n, _EDGE) for n in parts[0].shape))
    pair = _Pair(_centred(parts[0]) * window, _centred(parts[1]) * window, scans)
    row, column = shift + pair.vertex(pair.climbed(peak - shift))
    return float(row), float(column)


def _overlap(image: FloatArray, shift: IntArray) -> FloatArray:
    """Return the part of an image that is still in view after it has moved."""
    (rows, columns), (height, width) = shift, image.shape
    return image[max(-rows, 0) : height - max(rows, 0), max(-columns, 0) : width - max(columns, 0)]


def _log_prior(peaks: FloatArray, expected: tuple[float, float], deviation: FloatArray, reach: float) -> FloatArray:
    """Return the logarithm of the prior density at each peak: expected, or (seldom) anywhere within reach."""
    squared = ((peaks - expected) ** 2).sum(axis=1)
    anywhere = JUMP / (math.pi * reach**2)
    variance = np.where(np.isfinite(deviation), deviation, 1.0) ** 2
    core = np.where(np.isfinite(deviation), np.exp(-0.5 * squared / variance) / (2 * math.pi * variance), 0.0)
    result: FloatArray = np.log(anywhere + (1 - JUMP) * core)
    return result


class _Pair:
    """Two images, their spectra and their weighted correlation."""

    def __init__(self, first: FloatArray, second: FloatArray, scans: int) -> None:
        self.shape = first.shape
        self.reach = REACH * min(first.shape)
        margin = int(self.reach) + 8  # shifted content must not wrap around to the other side
        self.size = tuple(int(fft.next_fast_len(n + margin, real=True)) for n in first.shape)
        self._there = np.isfinite(second)
        a, b = _centred(first), _centred(second)
        self.image = b
        self._spectrum, other = self._transformed(a), self._transformed(b)
        self._mask = self._transformed(np.isfinite(first))
        self.overlap = np.maximum(self._back(self._transformed(self._there) * np.conj(self._mask)), 1.0)
        self._cross = other * np.conj(self._spectrum)
        self._pixels = math.sqrt(np.isfinite(first).sum() * self._there.sum())
        self.noise = self._noise(a, b, scans)
        self._learn(np.abs(self._spectrum) ** 2, np.abs(other) ** 2)

    # --- transforms -------------------------------------------------------------------------------------------------

    def _transformed(self, array: NDArray[np.generic]) -> ComplexArray:
        result: ComplexArray = fft.rfft2(array.astype(float), self.size)
        return result

    def _back(self, spectrum: ComplexArray) -> FloatArray:
        result: FloatArray = fft.irfft2(spectrum, self.size)
        return result

    @functools.cached_property
    def _frequencies(self) -> tuple[FloatArray, FloatArray]:
        return fft.fftfreq(self.size[0]), fft.rfftfreq(self.size[1])

    @functools.cached_property
    def _counted(self) -> FloatArray:
        """How often each frequency of the half spectrum stands in the whole one, ``(W / 2 + 1,)``."""
        counted = np.full(self.size[1] // 2 + 1, 2.0)
        counted[0] = 1.0
        if self.size[1] % 2 == 0:
            counted[-1] = 1.0
        return counted

    def _moved(self, spectrum: ComplexArray, shift: FloatArray) -> FloatArray:
        """Return the image of a spectrum, moved."""
        fy, fx = self._frequencies
        turn = np.exp(-2j * np.pi * shift[0] * fy)[:, None] * np.exp(-2j * np.pi * shift[1] * fx)[None]
        return self._back(spectrum * turn)[: self.shape[0], : self.shape[1]]

    # --- what is signal ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def _within(self) -> BoolArray:
        """Which shifts are within reach."""
        rows, columns = (fft.fftfreq(n, 1 / n) for n in self.size)
        result: BoolArray = np.hypot(rows[:, None], columns[None]) <= self.reach
        return result

    def _noise(self, a: FloatArray, b: FloatArray, scans: int) -> tuple[float, float]:
        """Return the noise of both images, a variance per pixel: what their best overlay does not explain."""
        total = [float((image**2).sum() / (image != 0).sum()) for image in (a, b)]
        shared = float((self._back(self._cross) / self.overlap)[self._within].max())
        one = max(sum(total) - 2 * shared, 1e-6 * sum(total)) / (1 + 1 / scans)
        return one, one / scans

    def _learn(self, first: FloatArray, second: FloatArray) -> None:
        """Learn the signal from the power spectra, and weigh the frequencies by it."""
        n1, n2 = self.noise
        excess = ((first + second) / self._pixels - n1 - n2) / 2
        fy, fx = self._frequencies
        ring = (np.hypot(fy[:, None], fx[None]) * min(self.size) / 2).astype(np.int64)
        counted = np.broadcast_to(self._counted, ring.shape)
        count = np.bincount(ring.ravel(), counted.ravel())
        power = np.bincount(ring.ravel(), (excess * counted).ravel()) / count
        # Padding makes several frequencies of each independent one.
        error = np.sqrt(0.5 * (n1**2 + n2**2) * (self.size[0] * self.size[1] / self._pixels) / count)
        self._signal = np.where(power > _RING * error, power, 0.0)[ring]
        self._signal[0, 0] = 0.0
        self._weight = self._signal / (n1 * n2 + self._signal * (n1 + n2))
        self._weighted = self._weight * self._cross * self._counted
        self.correlation = self._back(self._weight * self._cross) / self.overlap  # nats per pixel

    # --- peaks ------------------------------------------------------------------------------------------------------

    def peaks(self) -> FloatArray:
        """Return the shifts ``(k, 2)`` at which the images fit best, to a twentieth of a pixel; none if none does."""
        within = np.where(self._within, self.correlation, -np.inf)
        if not within.max() > 0:
            return np.empty((0, 2))
        top = (ndimage.maximum_filter(within, 3, mode="wrap") == within) & (within > _PEAK * within.max())
        places = np.argwhere(top)[np.argsort(-within[top])][:_MOST_PEAKS]
        size = np.array(self.size)
        coarse = np.where(places > size // 2, places - size, places).astype(float)
        return np.array([self.climbed(shift) for shift in coarse])

    def climbed(self, shift: FloatArray) -> FloatArray:
        """Return the top of the peak near a shift, to a twentieth of a pixel."""
        for step in (0.25, 0.05):
            around = step * np.arange(-3, 4)
            found = self._sampled(shift[0] + around, shift[1] + around)
            row, column = np.unravel_index(int(found.argmax()), found.shape)
            shift = shift + np.array([around[row], around[column]])
        return shift

    def _sampled(self, rows: FloatArray, columns: FloatArray) -> FloatArray:
        """Return the sum of the weighted correlation at shifts between pixels, ``(rows, columns)``, in nats."""
        fy, fx = self._frequencies
        down, across = np.exp(2j * np.pi * np.outer(rows, fy)), np.exp(2j * np.pi * np.outer(fx, columns))
        result: FloatArray = (down @ self._weighted @ across).real / (self.size[0] * self.size[1])
        return result

    def _overlap_at(self, shift: FloatArray) -> float:
        row, column = np.rint(shift).astype(int)
        return float(self.overlap[row, column])

    def height(self, shift: FloatArray) -> float:
        """Return how well the images fit, in nats, as if all of their pixels overlapped."""
        found = float(self._sampled(shift[:1], shift[1:])[0, 0])
        return found / self._overlap_at(shift) * self._pixels

    def strength(self, shift: FloatArray) -> float:
        """Return that in standard deviations of what noise alone would give."""
        n1, n2 = self.noise
        variance = (self._weight**2 * self._counted).sum() * n1 * n2 / (self.size[0] * self.size[1])
        share = self._overlap_at(shift) / self._pixels
        return self.height(shift) * math.sqrt(share / (variance * self._pixels))

    def _profile(self, shift: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return slope and downward curvature of a peak along both axes, in nats per pixel and per pixel squared."""
        around = _STEP * np.arange(-1, 2)
        top = self._sampled(shift[0] + around, shift[1] + around)
        low, middle, high = np.array([top[:, 1], top[1]]).T
        return (high - low) / (2 * _STEP), (2 * middle - low - high) / _STEP**2

    def vertex(self, shift: FloatArray) -> FloatArray:
        """Return the vertex of the parabola through a peak."""
        slope, bend = self._profile(shift)
        result: FloatArray = shift + np.clip(np.divide(slope, bend, out=np.zeros(2), where=bend > 0), -_STEP, _STEP)
        return result

    def deviation(self, shift: FloatArray) -> float:
        """Return the standard deviation of a peak's place along each axis, from its curvature."""
        bend = float(self._profile(shift)[1].min())
        return math.hypot(1 / math.sqrt(bend), _FLOOR) if bend > 0 else math.inf

    def evidence(self, peaks: FloatArray, heights: FloatArray, prior: FloatArray) -> FloatArray:
        """Return what the images say of each peak against one of them, in nats, as far as that is more than noise.

        The reference, its noise filtered off, is laid over the image at both shifts; where both cover it, one may
        explain it better than the other: a likelihood ratio, whose own noise is known.
        """
        order = np.argsort(-(heights / heights.max() * 20 + prior))
        pivot, compared = order[0], order[1:_COMPARED]
        n1, n2 = self.noise
        filtered = self._spectrum * (self._signal / (self._signal + n1))
        covered = self._covered(peaks[pivot])
        model = self._moved(filtered, peaks[pivot])
        # The others are far below, or as many repeats further away: their heights are enough.
        lower = heights[pivot] - heights
        noise = _EARNEST * 2 * math.sqrt(max(heights[pivot], 0.0)) + _ALIKE * abs(heights[pivot])
        evidence: FloatArray = -np.sign(lower) * np.maximum(np.abs(lower) - noise, 0.0)
        for k in compared:
            both = covered & self._covered(peaks[k])
            here, there, seen = model[both], self._moved(filtered, peaks[k])[both], self.image[both]
            better = float((seen * (here - there)).sum() - 0.5 * (here**2 - there**2).sum()) / n2
            noise = _EARNEST * math.sqrt(((here - there) ** 2).sum() / n2 * (1 + n1 / n2))
            noise += _ALIKE * 0.5 * float((here**2 + there**2).sum()) / n2
            evidence[k] = -math.copysign(max(abs(better) - noise, 0.0), better)
        return evidence

    def _covered(self, shift: FloatArray) -> BoolArray:
        """Return which of the image's pixels the moved reference covers."""
        row, column = np.rint(shift)
        return (self._moved(self._mask, np.array([row, column])) > 0.5) & self._there


def _without_spikes(image: FloatArray) -> FloatArray:
    """Return an image with NaN where single pixels are far beyond all others: they are defects, or cosmic rays."""
    there = np.isfinite(image)
    if not there.any():
        return image
    away = np.abs(image - np.median(image[there]))
    usual = np.quantile(away[there], 1 - _SPIKES)
    return np.where(away > _SPIKE * usual, np.nan, image) if usual > 0 else image


def _centred(image: FloatArray) -> FloatArray:
    """Return an image less its mean, with zero where there is no number."""
    there = np.isfinite(image)
    result = np.where(there, image, 0.0)
    result = np.where(there, result - (result.sum() / there.sum() if there.any() else 0.0), 0.0)
    if not np.any(np.abs(result) > 1e-9 * np.abs(image[there]).max(initial=0.0)):
        raise StemAeError("An image without any contrast cannot be registered: scan where something is to be seen.")
    return result
