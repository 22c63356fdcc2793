"""Today's probe and dose from a frame, so that the images to train on look like it.

Compared is what does not depend on where a lattice begins. The power spectrum: for each probe it is a multiple of that
of the material without noise, plus the noise of counting and of line jitter. These are read where no lattice has
signal, the multiple is fitted, and the two together give the dose. Directions matter, since astigmatism favours some of
a lattice's spots: specimens are turned as the frame's lattice is. And the histogram, since a spectrum does not tell
bright atoms from dark ones, which defocus makes of them: that of the image in which each frequency counts as much as it
stands out from the noise, for else a lattice out of focus looks like one in focus at a fraction of the dose. Probes on
a coarse grid are ranked, and the best improved from there.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from stem_ae.atoms import Atoms2D
from stem_ae.elit.materials import Material
from stem_ae.elit.preprocess import Image
from stem_ae.elit.synthesis import Conditions
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, Probe
from stem_ae.imaging.scattering import cross_section

FloatArray = NDArray[np.float64]

_EXTENT = 32.0  # Å: at most so much of the frame is looked at
_FINEST = 0.125  # Å per pixel of simulated images
_SHARP = GaussianProbe(0.2)  # with which they are made; divided out again
_HIGHEST = 2.2  # 1/Å
_QUIET = 0.85  # from this share of the highest frequency on there is noise only
_COMPARED = (0.2, 1.5)  # 1/Å: slower there are gradients and hydrocarbon, faster nothing but noise
_SMOOTHED = 0.04  # 1/Å: spots of the frame and of a specimen like it need not coincide better than that
_BAND = (0.2, 0.8)  # 1/Å: what of the image counts for its histogram
_LEAST_CLEAR = 0.02  # where a frame shows nothing but noise, its histogram is that of the noise
_LEVELS = np.linspace(0.02, 0.98, 25)  # of the histogram
_SPECIMENS = 8  # some have holes or many defects, the frame may not
_ALIKE = 3  # of them are compared with, those that are most like the frame
_STEPS = ((16, 40), (3, 120))  # how many of the best probes are improved, by how many trials each
_NEWTON, _CONVERGED = 6, 1e-4  # steps at most, and the logarithm's change that is none
_UNLIKELY = 0.004  # difference that an aberration of 100 Å counts as, growing with its square: most are smaller
_AS_GOOD = 0.01  # more difference than the best probe's: such a probe may be the true one as well

_ROUND: tuple[Probe, ...] = (
    *(GaussianProbe(sigma) for sigma in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)),
    *(AberratedProbe(defocus=c10) for c10 in np.arange(0.0, 321.0, 10.0)),
)
# The sign of defocus and astigmatism together does not show: defocus is positive, astigmatism of any direction.
_ASTIGMATIC: tuple[Probe, ...] = tuple(
    AberratedProbe(defocus=c10, astigmatism=(strength * np.cos(t), strength * np.sin(t)))
    for c10 in np.arange(0.0, 321.0, 20.0)
    for strength, directions in ((30.0, 6), (60.0, 10), (90.0, 12), (120.0, 14))
    for t in 2 * np.pi * np.arange(directions) / directions
)


def refit(image: Image, atoms: Atoms2D, material: Material, seed: int) -> Conditions:
    """Return the conditions whose simulated frames look like this one.

    Parameters
    ----------
    image : (H, W) array
        The frame, bad pixels repaired.
    atoms : Atoms2D
        What is seen in it so far; where that is right, it is the best specimen to compare with.
    material : Material
        What is in it.
    seed : int
        Of the other specimens that it is compared with.
    """
    seen = _Look.of(image, atoms.step)
    structures = [_Structure.like(seen, material, np.random.default_rng([seed, k])) for k in range(_SPECIMENS)]
    structures.append(_Structure.found(seen, atoms))
    each = [[seen.difference(structure, seen.transfer(p)) + _cost(p) for structure in structures] for p in _ROUND]
    alike = [structures[k] for k in np.argsort(np.min(each, axis=0))[:_ALIKE]]

    def cost(probe: Probe) -> float:
        transfer = seen.transfer(probe)
        return min(seen.difference(structure, transfer) for structure in alike) + _cost(probe)

    ranked = sorted(_ROUND + _ASTIGMATIC, key=cost)
    for count, trials in _STEPS:
        ranked = sorted((_improved(cost, probe, trials) for probe in ranked[:count]), key=cost)
    kept = [probe for probe in ranked if cost(probe) < cost(ranked[0]) + _AS_GOOD]
    doses = [seen.dose(alike[0], seen.transfer(probe)) for probe in kept]
    scale = float(np.sqrt(np.prod(atoms.step)))
    return dataclasses.replace(
        material.conditions,
        probes=tuple(kept),
        log_dose=(min(doses) / 2, max(doses) * 2),
        log_sampling=(0.9 * scale, 1.1 * scale),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Look:
    """What a square of the frame looks like, at the frequencies that are compared, K along each axis."""

    power: FloatArray  # (K, K) smoothed
    clear: FloatArray  # (K, K) share of the power that is not noise
    quantiles: FloatArray  # of the image within ``_BAND``, noise filtered out, in standard deviations
    noise: FloatArray  # (K,) the power of its noise: that of line jitter depends on the frequency along the lines
    variance: float  # of the frame's pixels that counting makes
    grain: NDArray[np.complex128]  # (K, K) transform of a noise like it
    fx: FloatArray  # (K,) in 1/Å, along either axis
    extent: float  # Å
    corner: FloatArray  # x, y in Å: where in the frame the square begins
    scale: float  # Å per pixel, geometric mean

    @classmethod
    def of(cls, image: Image, sampling: tuple[float, float]) -> _Look:
        extent = min(_EXTENT, *(n * d for n, d in zip(image.shape, sampling, strict=True)))
        rows, columns = (int(extent / d) for d in sampling)
        top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
        part = image[top : top + rows, left : left + columns].astype(float)
        reach = int(min(_HIGHEST, 0.5 / max(sampling)) * extent) - 1
        transform = _fourier(part - part.mean(), reach)
        fast = np.abs(np.arange(-reach, reach + 1)) > _QUIET * reach
        power = np.abs(transform) ** 2
        noise = ndimage.gaussian_filter1d(power[fast].mean(0), 2 * _SMOOTHED * extent, mode="nearest")
        window = float(np.prod([(np.hanning(n) ** 2).sum() for n in part.shape]))
        white = _fourier(np.random.default_rng(0).normal(0, 1 / np.sqrt(window), part.shape), reach)
        compared = slice(max(0, reach - int(_COMPARED[1] * extent)), reach + int(_COMPARED[1] * extent) + 1)
        square = compared, compared
        fx = np.arange(-reach, reach + 1)[compared] / extent
        smooth = _smooth(power[square], extent)
        clear = np.clip(1 - noise[compared] / smooth, _LEAST_CLEAR, 1.0)
        return cls(
            power=smooth,
            clear=clear,
            quantiles=_quantiles(clear * transform[square], fx),
            noise=noise[compared],
            variance=float(power[:, fast].mean()) / window,
            grain=(white * np.sqrt(noise))[square],
            fx=fx,
            extent=extent,
            corner=np.array([left * sampling[1], top * sampling[0]]),
            scale=float(np.sqrt(np.prod(sampling))),
        )

    def transfer(self, probe: Probe) -> FloatArray:
        """Return a probe's transfer function at the frequencies; half of them say it all."""
        middle = len(self.fx) // 2
        half = probe.otf(self.fx[None, :], self.fx[middle:, None])
        return np.concatenate([half[:0:-1, ::-1], half])

    def difference(self, structure: _Structure, transfer: FloatArray) -> float:
        """Return the mean squares of the logarithmic power's difference and of the histogram's, together."""
        transform = structure.transform * transfer
        multiple, spectral = self._fitted(transform)
        quantiles = _quantiles(self.clear * (np.sqrt(multiple) * transform + self.grain), self.fx)
        return spectral + float(np.mean((quantiles - self.quantiles) ** 2))

    def dose(self, structure: _Structure, transfer: FloatArray) -> float:
        """Return e/Å²."""
        # counts = electrons * fraction, image = counts * gain: variance = gain^2 * electrons * mean(fraction)
        multiple = self._fitted(structure.transform * transfer)[0] * (self.scale / _FINEST) ** 4
        electrons = multiple * structure.mean / max(self.variance, 1e-30)
        return electrons / self.scale**2

    def _fitted(self, transform: NDArray[np.complex128]) -> tuple[float, float]:
        """Return the multiple of a structure's power that is seen, and the logarithm's mean square difference."""
        first, compared, observed, noise = self._compared
        signal = _smooth(np.abs(transform[first:]) ** 2, self.extent)[compared]
        multiple = max(float(((observed - noise) * signal).sum() / max(float((signal**2).sum()), 1e-30)), 1e-30)
        for _ in range(_NEWTON):  # for its logarithm
            model = multiple * signal + noise
            share = multiple * signal / model
            step = float((share * np.log(model / observed)).sum() / max(float((share**2).sum()), 1e-12))
            multiple *= float(np.exp(-np.clip(step, -1, 1)))
            if abs(step) < _CONVERGED:
                break
        return multiple, float(np.mean(np.log((multiple * signal + noise) / observed) ** 2))

    @functools.cached_property
    def _compared(self) -> tuple[int, NDArray[np.bool_], FloatArray, FloatArray]:
        """Half the plane says it all: from which row on to smooth, what is compared there, its power, its noise."""
        middle = len(self.fx) // 2
        first = max(0, middle - int(np.ceil(4 * _SMOOTHED * self.extent)))
        f = _radius(self.fx)
        compared = (f > _COMPARED[0]) & (f < self.fx[-1])
        compared[:middle] = False
        compared = compared[first:]
        noise = np.broadcast_to(self.noise, compared.shape)[compared]
        return first, compared, self.power[first:][compared], noise


@dataclasses.dataclass(frozen=True, eq=False)
class _Structure:
    """A specimen's Fourier transform at a frame's frequencies, as if the probe were a point."""

    transform: NDArray[np.complex128]  # (K, K)
    mean: float  # fraction of the beam that is scattered

    @classmethod
    def like(cls, seen: _Look, material: Material, rng: np.random.Generator) -> _Structure:
        """Return a random specimen, turned as the frame's lattice is."""
        side = 1.45 * seen.extent + 12.0  # Å: it must fill the square however it is turned
        specimen = material.make_specimen((side, side), rng)
        xy, weights = specimen.positions[:, :2] - side / 2, cross_section(specimen.numbers)
        as_made = cls._imaged(xy, weights, seen)
        made = _smooth(np.abs(as_made.transform * seen.transfer(GaussianProbe(0.4))) ** 2, seen.extent)
        angle = _turn(made, seen.power, seen.extent)
        c, s = np.cos(angle), np.sin(angle)
        return cls._imaged(xy @ np.array([[c, s], [-s, c]]), weights, seen)

    @classmethod
    def found(cls, seen: _Look, atoms: Atoms2D) -> _Structure:
        """Return the atoms that were found in the frame."""
        return cls._imaged(atoms.positions - seen.corner - seen.extent / 2, _weights(atoms.symbols), seen)

    @classmethod
    def _imaged(cls, xy: FloatArray, weights: FloatArray, seen: _Look) -> _Structure:
        pixels = int(seen.extent / _FINEST)
        image = expected_fraction(xy + seen.extent / 2, weights, (pixels, pixels), _FINEST, _SHARP)
        transform = _fourier(image - image.mean(), len(seen.fx) // 2) / seen.transfer(_SHARP)
        return cls(transform, float(image.mean()))


def _weights(columns: Sequence[str]) -> FloatArray:
    """Return the cross sections in Å² of columns by their names: ``S2`` is two sulphurs."""
    names = (re.fullmatch(r"([A-Z][a-z]?)(\d*)", name) for name in columns)
    weights = [int(m[2] or 1) * float(cross_section(atomic_numbers[m[1]])) if m else 0.0 for m in names]
    return np.array(weights, dtype=float)


def _radius(f: NDArray[Any]) -> FloatArray:
    """Return ``(K, K)`` distances from the middle."""
    result: FloatArray = np.hypot(f[None, :], f[:, None])
    return result


def _fourier(image: FloatArray, reach: int) -> NDArray[np.complex128]:
    """Return the transform of the image under a window, frequencies up to ``reach`` cycles, zero in the middle."""
    windowed = image * np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    middle = fft.fftshift(fft.fft2(windowed))
    y, x = (n // 2 for n in image.shape)
    result: NDArray[np.complex128] = middle[y - reach : y + reach + 1, x - reach : x + reach + 1]
    return result


def _smooth(power: FloatArray, extent: float) -> FloatArray:
    result: FloatArray = ndimage.gaussian_filter(power, _SMOOTHED * extent, mode="nearest")
    return result


def _quantiles(transform: NDArray[np.complex128], fx: FloatArray) -> FloatArray:
    """Return the levels of an image's histogram, in its standard deviations, slow and fast changes left out."""
    band, window, bright = _band(len(fx), float(fx[-1]))
    middle, pixels = len(fx) // 2, len(bright)
    half = np.zeros((pixels, pixels // 2 + 1), np.complex128)
    seen = (transform * band)[:, middle:]
    half[: middle + 1, : middle + 1], half[-middle:, : middle + 1] = seen[middle:], seen[:middle]
    values = fft.irfft2(half, bright.shape)[bright] / window
    result: FloatArray = np.quantile((values - values.mean()) / values.std(), _LEVELS)
    return result


@functools.lru_cache(maxsize=4)
def _band(count: int, highest: float) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return the pass band of so many frequencies, and where and how much an image under the window is seen."""
    f = _radius(np.linspace(-highest, highest, count))
    band = np.exp(-0.5 * (f / _BAND[1]) ** 4) * (1 - np.exp(-0.5 * (f / _BAND[0]) ** 4))
    pixels = fft.next_fast_len(count, real=True)
    window = np.outer(np.hanning(pixels), np.hanning(pixels))
    bright = window > 0.3
    return band, window[bright], bright


def _turn(power: FloatArray, like: FloatArray, extent: float) -> float:
    """Return the angle in radians, from x towards y, by which a spectrum is to be turned to look like another."""
    f, angles = np.arange(0.3, 1.2, 0.02), np.deg2rad(np.arange(0, 180, 0.5))
    middle = len(power) // 2
    where = [middle + extent * np.outer(f, np.sin(angles)), middle + extent * np.outer(f, np.cos(angles))]
    polar = [ndimage.map_coordinates(p**0.25, where, order=1, mode="nearest") for p in (power, like)]
    first, second = (fft.fft(p - p.mean(1, keepdims=True), axis=1) for p in polar)
    match = fft.ifft((np.conj(first) * second).sum(0)).real
    return float(angles[int(match.argmax())])


# --- from a probe of the coarse grid to the best one near it ---------------------------------------------------------


def _cost(probe: Probe) -> float:
    """Return what speaks against a probe before anything was seen; far out of focus much looks alike."""
    if not isinstance(probe, AberratedProbe):
        return 0.0
    return _UNLIKELY * (probe.defocus**2 + probe.astigmatism[0] ** 2 + probe.astigmatism[1] ** 2) / 100.0**2


def _improved(cost: Callable[[Probe], float], probe: Probe, trials: int) -> Probe:
    """Return the best probe that so many trials find near one."""
    start, steps = _parameters(probe)
    corners = np.vstack([start, start + np.diag(steps)])
    result = optimize.minimize(
        lambda values: cost(_with_parameters(probe, values)),
        start,
        method="Nelder-Mead",
        options={"initial_simplex": corners, "maxfev": trials, "fatol": 1e-4, "xatol": 1e-3},
    )
    return _with_parameters(probe, result.x)


def _parameters(probe: Probe) -> tuple[FloatArray, FloatArray]:
    """Return what is varied, and by how much at first."""
    if isinstance(probe, AberratedProbe):
        values = [probe.source_sigma, probe.semiangle_mrad, probe.defocus, *probe.astigmatism]
        return np.array(values), np.array([0.05, 2.0, 15.0, 15.0, 15.0])
    assert isinstance(probe, GaussianProbe)
    return np.array([probe.sigma, 0.0, 0.0]), np.array([0.05, 0.05, 0.05])


def _with_parameters(probe: Probe, values: FloatArray) -> Probe:
    if isinstance(probe, AberratedProbe):
        source, semiangle, defocus, ax, ay = values
        return dataclasses.replace(
            probe,
            source_sigma=float(np.clip(source, 0.1, 1.2)),
            semiangle_mrad=float(np.clip(semiangle, 15.0, 45.0)),
            defocus=float(np.clip(defocus, -500.0, 500.0)),
            astigmatism=(float(np.clip(ax, -300.0, 300.0)), float(np.clip(ay, -300.0, 300.0))),
        )
    sigma, along_x, along_y = values
    strength = float(np.clip(np.hypot(along_x, along_y), 0.0, 0.6))
    return GaussianProbe(float(np.clip(sigma, 0.15, 1.5)), strength, float(np.arctan2(along_y, along_x) / 2))
