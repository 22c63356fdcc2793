"""A frame as a Gaussian process sees it: less noise, missing pixels filled in, and how sure that is.

The prior is a stationary Gaussian process whose power spectrum is learnt from the frame itself: the lattice is part of
it, and no training is needed. It is a view for the eye; atoms are found in the frame as it was measured.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage
from scipy.sparse.linalg import LinearOperator, cg

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

_WIDTHS = (0.7, 1.0, 1.5, 2.5, 4.0, 7.0, 12.0)  # frequency bins over which the spectrum is smoothed
_PAD = 16
_FEWEST = 0.02  # of the pixels
_FINEST = 0.25  # cycles per pixel from which a ring of frequencies may hold nothing but noise
_SURE = 3.5  # standard deviations by which a ring must stand out of the noise
_LEAST_NOISE = 0.02  # of the variance
_SAMPLES = 8  # of the posterior, for its spread
_TOLERANCE, _MOST_STEPS = 5e-3, 100


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """What the frame would be without noise, in the frame's own units."""

    mean: FloatArray
    """``(H, W)``."""
    std: FloatArray
    """``(H, W)``: its standard deviation, larger where nothing was measured nearby."""
    noise: float
    """Standard deviation of the noise of one measured pixel."""


def reconstruct(image: ArrayLike, measured: ArrayLike | None = None, seed: int = 0) -> Reconstruction:
    """Reconstruct a noisy or sparse frame as the posterior of a Gaussian process with white noise.

    Without missing pixels this is the Wiener filter. With some, the linear system is solved by conjugate gradients, and
    the spread comes from samples of the posterior (Wilson et al., ICML 2020).

    Parameters
    ----------
    image : (H, W) array
        What stands where nothing was measured does not matter.
    measured : (H, W) array of bool, optional
        Which pixels were; by default all that are finite.
    seed : int
        Of the samples.

    Raises
    ------
    StemAeError
        If it is not a frame, or less than 2 % of it was measured.
    """
    values = np.asarray(image, dtype=float)
    if values.ndim != 2 or min(values.shape) < _PAD:
        raise StemAeError(f"The image is {values.shape}: give one 2-D frame of at least {_PAD} x {_PAD} pixels.")
    known = np.isfinite(values) if measured is None else np.asarray(measured, dtype=bool)
    if known.shape != values.shape or not np.isfinite(values[known]).all():
        raise StemAeError("The mask of measured pixels must have the image's shape and mark finite values only.")
    if known.mean() < _FEWEST:
        raise StemAeError(f"Only {known.mean():.1%} of the pixels were measured: at least {_FEWEST:.0%} are needed.")
    level = float(values[known].mean())
    residual = np.where(known, values - level, 0.0)
    answer = _filtered(residual) if known.all() else _filled(residual, known, np.random.default_rng(seed))
    return dataclasses.replace(answer, mean=answer.mean + level)


# --- all pixels measured --------------------------------------------------------------------------------------------


def _filtered(values: FloatArray) -> Reconstruction:
    padded = np.pad(values, _PAD, mode="reflect")
    spectrum = fft.fft2(padded)
    signal, noise = _signal_and_noise(np.abs(spectrum) ** 2 / padded.size)
    gain = signal / (signal + noise)
    mean = fft.ifft2(gain * spectrum).real[_PAD:-_PAD, _PAD:-_PAD]
    return Reconstruction(mean, np.full(values.shape, np.sqrt(noise * gain.mean())), float(np.sqrt(noise)))


def _signal_and_noise(periodogram: FloatArray) -> tuple[FloatArray, float]:
    """Return the power of the signal at each frequency, and that of the noise.

    The signal at a frequency is what its neighbours have above the noise, itself left out, so that Stein's unbiased
    estimate of a Wiener filter's error (1981) tells how many neighbours to ask.
    """
    ring, _, noise, last = _by_ring(periodogram)

    def trial(width: float) -> tuple[float, FloatArray]:
        signal = np.where(ring > last, 0.0, np.maximum(_without_itself(periodogram, width) - noise, 0.0))
        gain = signal / (signal + noise)
        return float(np.mean(periodogram * (1 - gain) ** 2 + 2 * noise * gain)), signal

    return min((trial(width) for width in _WIDTHS), key=lambda pair: pair[0])[1], noise


def _by_ring(periodogram: FloatArray) -> tuple[NDArray[np.int64], FloatArray, float, int]:
    """Return the ring of each frequency, the mean power of each ring, the noise, and the last ring with a signal."""
    size = min(periodogram.shape)
    frequency = np.hypot(fft.fftfreq(periodogram.shape[0])[:, None], fft.fftfreq(periodogram.shape[1])[None, :])
    ring = np.asarray(frequency * size, dtype=np.int64)
    count = np.bincount(ring.ravel())
    power = np.bincount(ring.ravel(), periodogram.ravel()) / count
    fine = np.arange(int(_FINEST * size), size // 2)
    noise = min(float(np.average(power[part], weights=count[part])) for part in np.array_split(fine, 6))
    stands_out = power - noise > _SURE * noise / np.sqrt(count / 2)
    return ring, power, noise, int(np.flatnonzero(stands_out[: size // 2]).max(initial=1))


def _without_itself(periodogram: FloatArray, width: float) -> FloatArray:
    """Return the mean over each frequency's neighbours, Gaussian weights, itself left out."""
    impulse = np.zeros(2 * int(3 * width + 1) + 1)
    impulse[len(impulse) // 2] = 1.0
    own = ndimage.gaussian_filter1d(impulse, width, truncate=3.0).max() ** 2
    around = ndimage.gaussian_filter(periodogram, width, mode="wrap", truncate=3.0)
    result: FloatArray = np.maximum(around - own * periodogram, 0.0) / (1 - own)
    return result


# --- some pixels missing --------------------------------------------------------------------------------------------


def _filled(values: FloatArray, known: Mask, rng: np.random.Generator) -> Reconstruction:
    padded, mask = np.pad(values, _PAD), np.pad(known, _PAD)
    # With zeros where nothing is known, the gaps look like more white noise.
    periodogram = np.abs(fft.fft2(padded / known.mean())) ** 2 / known.size
    ring, power, floor, last = _by_ring(periodogram)
    spectrum = np.where(ring > last, 0.0, np.maximum(power[ring] - floor, 0.0))
    variance = float(values[known].var())
    noise = max(variance - float(spectrum.mean()), _LEAST_NOISE * variance)
    mean = _solve(padded, mask, spectrum, noise)
    deviations = [_deviation(mask, spectrum, noise, rng) for _ in range(_SAMPLES)]
    std = np.sqrt(ndimage.gaussian_filter(np.mean(np.square(deviations), axis=0), 2.0))
    inside = (slice(_PAD, -_PAD), slice(_PAD, -_PAD))
    return Reconstruction(mean[inside], std[inside], float(np.sqrt(noise)))


def _solve(values: FloatArray, mask: Mask, spectrum: FloatArray, noise: float) -> FloatArray:
    """Return the posterior mean, on all pixels, of values at the pixels of the mask."""

    def covariance(weights: FloatArray) -> FloatArray:
        image = np.zeros(mask.shape)
        image[mask] = weights
        result: FloatArray = fft.ifft2(spectrum * fft.fft2(image)).real
        return result

    count = int(mask.sum())
    system = LinearOperator((count, count), lambda weights: covariance(weights.ravel())[mask] + noise * weights.ravel())
    weights, _ = cg(system, values[mask], rtol=_TOLERANCE, maxiter=_MOST_STEPS)
    return covariance(weights)


def _deviation(mask: Mask, spectrum: FloatArray, noise: float, rng: np.random.Generator) -> FloatArray:
    """Return a sample of the posterior less its mean: one of the prior less what its noisy values would yield."""
    white = fft.fft2(rng.standard_normal(mask.shape))
    sample: FloatArray = fft.ifft2(np.sqrt(spectrum) * white).real
    noisy = sample + np.sqrt(noise) * rng.standard_normal(mask.shape)
    return sample - _solve(noisy, mask, spectrum, noise)
