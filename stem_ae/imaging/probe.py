"""The focused beam: how its intensity is spread over the specimen, as an optical transfer function.

Both probes are symmetric under inversion (no coma), so that their transfer functions are real.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import constants, fft, ndimage

FloatArray = NDArray[np.float64]

FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


class Probe(Protocol):
    """A normalised intensity distribution in Å, known by its Fourier transform; a value that can be a key."""

    def __hash__(self) -> int: ...

    @property
    def sigma(self) -> float:
        """Width of the core in Å: FWHM / 2.355."""
        ...

    def otf(self, fx: FloatArray, fy: FloatArray) -> FloatArray:
        """Return the transfer function at spatial frequencies in 1/Å; one at zero frequency."""
        ...


@dataclasses.dataclass(frozen=True)
class GaussianProbe:
    """A Gaussian probe.

    Parameters
    ----------
    sigma : float
        Geometric mean of the standard deviations along the two principal axes, in Å.
    ellipticity : float
        The axes are ``sigma * (1 + ellipticity)`` and ``sigma / (1 + ellipticity)``.
    angle : float
        Direction of the long axis in radians, from x towards y.
    """

    sigma: float
    ellipticity: float = 0.0
    angle: float = 0.0

    def otf(self, fx: FloatArray, fy: FloatArray) -> FloatArray:
        """Return ``exp(-2 pi^2 f.S.f)`` with the covariance ``S`` of the probe."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        long = self.sigma * (1 + self.ellipticity) * (c * fx + s * fy)
        short = self.sigma / (1 + self.ellipticity) * (c * fy - s * fx)
        result: FloatArray = np.exp(-2 * np.pi**2 * (long**2 + short**2))
        return result


def wavelength(energy_ev: float) -> float:
    """Return the relativistic electron wavelength in Å."""
    rest_ev = constants.m_e * constants.c**2 / constants.e
    momentum = np.sqrt(energy_ev * (energy_ev + 2 * rest_ev)) * constants.e / constants.c
    return float(constants.h / momentum * 1e10)


@dataclasses.dataclass(frozen=True)
class AberratedProbe:
    """The probe of an aberration-corrected lens: aperture, defocus, astigmatism, Cs, and an incoherent source.

    ``chi(k) = pi lambda (C10 k^2 + A_x (kx^2 - ky^2) + 2 A_y kx ky) + pi/2 Cs lambda^3 k^4`` (Kirkland, *Advanced
    Computing in Electron Microscopy*); the intensity is ``|FT[aperture exp(-i chi)]|^2``.

    Parameters
    ----------
    energy_ev : float
        Beam energy in eV.
    semiangle_mrad : float
        Convergence semi-angle in mrad.
    defocus, cs : float
        C10 and C30 in Å; zero is focus.
    astigmatism : (float, float)
        Two-fold astigmatism in Å.
    source_sigma : float
        Standard deviation in Å of the source's image and of everything else that blurs incoherently.
    """

    energy_ev: float = 60e3
    semiangle_mrad: float = 32.0
    defocus: float = 0.0
    cs: float = 0.0
    astigmatism: tuple[float, float] = (0.0, 0.0)
    source_sigma: float = 0.35

    @functools.cached_property
    def _table(self) -> tuple[float, FloatArray]:
        """Frequency step in 1/Å, and the transfer function on that grid with zero frequency at its centre."""
        cutoff = self.semiangle_mrad * 1e-3 / wavelength(self.energy_ev)
        # A defocused disk is 2 |C10| alpha wide: the box must hold it, or its tails come back on the other side.
        blur = abs(self.defocus) + np.hypot(*self.astigmatism) + abs(self.cs) * (self.semiangle_mrad * 1e-3) ** 2
        box = 24.0 + 4 * blur * self.semiangle_mrad * 1e-3
        n = int(fft.next_fast_len(int(np.ceil(box * 4 * cutoff * 1.2)), real=True))
        k = fft.fftfreq(n, box / n)
        kx, ky = k[None, :], k[:, None]
        k2 = kx**2 + ky**2
        lam = wavelength(self.energy_ev)
        ax, ay = self.astigmatism
        chi = np.pi * lam * (self.defocus * k2 + ax * (kx**2 - ky**2) + 2 * ay * kx * ky)
        chi += 0.5 * np.pi * self.cs * lam**3 * k2**2
        edge = np.clip((cutoff - np.sqrt(k2)) * box + 0.5, 0, 1)  # anti-aliased aperture
        intensity = np.abs(fft.ifft2(edge * np.exp(-1j * chi))) ** 2
        table = fft.fftshift(fft.fft2(intensity / intensity.sum()).real)
        return 1 / box, table

    def otf(self, fx: FloatArray, fy: FloatArray) -> FloatArray:
        """Return the transfer function at frequencies in 1/Å."""
        step, table = self._table
        centre = len(table) // 2
        fx, fy = np.broadcast_arrays(fx, fy)
        lens = ndimage.map_coordinates(table, [fy / step + centre, fx / step + centre], order=3, mode="constant")
        result: FloatArray = lens * np.exp(-2 * (np.pi * self.source_sigma) ** 2 * (fx**2 + fy**2))
        return result

    @functools.cached_property
    def sigma(self) -> float:
        """Width of the core in Å: FWHM / 2.355 of the azimuthal mean."""
        step = 0.02
        f = np.arange(-2.5, 2.5, 0.02)
        profile_otf = self.otf(*np.meshgrid(f, f))
        r = np.arange(0, 6.0, step)
        along_x = np.cos(2 * np.pi * r[:, None] * f) @ profile_otf.sum(0)
        along_y = np.cos(2 * np.pi * r[:, None] * f) @ profile_otf.sum(1)
        profile = along_x + along_y
        below = int(np.argmax(profile < profile[0] / 2))
        inner = profile[below - 1] - profile[0] / 2
        half = r[below - 1] + step * inner / (profile[below - 1] - profile[below])
        return float(2 * half / FWHM_PER_SIGMA)
