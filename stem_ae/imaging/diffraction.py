"""Convergent-beam patterns whose centre of mass follows the projected field of the atoms.

For a phase object the mean deflection of the beam is exactly ``lambda / (2 pi) * C * grad(V * p)``: the gradient of the
projected potential seen through the probe's intensity, times the interaction constant (Müller et al., Nat. Commun. 5
(2014) 5653; Lazić et al., Ultramicroscopy 160 (2016) 265). The pattern here is the aperture's disk moved by it, the
same disk at the spots of the lattice around the place, as strained as that is, and a halo of electrons scattered
farther; interference where disks overlap is left out.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import constants, fft, ndimage, signal

from stem_ae.imaging.probe import Probe, wavelength
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import Specimen

FloatArray = NDArray[np.float64]

_COULOMB = constants.e / (4 * np.pi * constants.epsilon_0) * 1e10  # 14.4 eV Å
_BOHR = constants.value("Bohr radius") * 1e10  # Å
_REACH = 8.0  # Å: how far the field of an atom is followed
_SPACING = 0.05  # Å
_HALO_MRAD = 25.0
_NEIGHBOURHOOD = 6.0  # Å: standard deviation of the part of the lattice that is seen
_UNDEFLECTED_MRAD = 4.0
_IN_DISKS = 0.5  # of the scattered electrons


def interaction_constant(energy_ev: float) -> float:
    """Return the phase per projected potential, ``2 pi m e lambda / h^2``, in rad / (V Å)."""
    rest = constants.m_e * constants.c**2 / constants.e
    return float(2 * np.pi / (wavelength(energy_ev) * energy_ev) * (rest + energy_ev) / (2 * rest + energy_ev))


def deflection(specimen: Specimen, points: ArrayLike, probe: Probe, energy_ev: float) -> FloatArray:
    """Return the beam's mean deflection (x, y) in mrad at points ``(..., 2)`` in Å: the ground truth of a CoM map."""
    points = np.asarray(points, dtype=float)
    flat = points.reshape(-1, 2)
    mrad = wavelength(energy_ev) / (2 * np.pi) * interaction_constant(energy_ev) * 1e3
    result = np.zeros_like(flat)
    for number in np.unique(specimen.numbers):
        atoms = specimen.positions[specimen.numbers == number, :2]
        gradient = _gradient(probe, int(number))
        for k, point in enumerate(flat):
            apart = point - atoms[np.all(np.abs(atoms - point) < _REACH - 2 * _SPACING, axis=1)]
            index = apart.T[::-1] / _SPACING + gradient.shape[1] // 2
            result[k] += [ndimage.map_coordinates(part, index, order=1).sum() for part in gradient]
    return mrad * result.reshape(points.shape)


@functools.lru_cache(maxsize=32)
def _gradient(probe: Probe, number: int) -> FloatArray:
    """Gradient (x, y) of an atom's projected potential seen through the probe, V, on a grid around the atom.

    The atom is a nucleus screened as in Wentzel's model, with the radius ``0.885 a0 Z^(-1/3)``.
    """
    n = 2 * int(_REACH / _SPACING)
    fx, fy = np.meshgrid(fft.fftfreq(n, _SPACING), fft.fftfreq(n, _SPACING))
    screening = 1 / (0.885 * _BOHR * number ** (-1 / 3))
    potential = 4 * np.pi * number * _COULOMB / (4 * np.pi**2 * (fx**2 + fy**2) + screening**2)
    seen = potential * probe.otf(fx, fy) / _SPACING**2
    parts = [fft.fftshift(fft.ifft2(2j * np.pi * component * seen).real) for component in (fx, fy)]
    return np.stack(parts)


def pattern(
    shape: tuple[int, int],
    mrad_per_pixel: float,
    semiangle_mrad: float,
    shift_mrad: ArrayLike,
    scattered: float,
    spots: FloatArray | None = None,
) -> FloatArray:
    """Return the expected fraction of the beam per camera pixel, ``(H, W)``.

    Parameters
    ----------
    shape : (int, int)
        Of the camera; the undeflected beam falls on its middle.
    mrad_per_pixel : float
        Angle per pixel.
    semiangle_mrad : float
        Radius of the disk.
    shift_mrad : (2,) array
        Deflection, x and y.
    scattered : float
        Fraction of the beam that leaves the disk.
    spots : (H, W) array, optional
        Where a half of that goes, as :func:`bragg_spots`; each spot becomes a disk. The rest is the halo.
    """
    shift = np.asarray(shift_mrad, dtype=float)
    rows, columns = np.indices(shape, dtype=float)
    x = (columns - (shape[1] - 1) / 2) * mrad_per_pixel - shift[0]
    y = (rows - (shape[0] - 1) / 2) * mrad_per_pixel - shift[1]
    radius2 = x**2 + y**2
    disk = np.clip((semiangle_mrad - np.sqrt(radius2)) / mrad_per_pixel + 0.5, 0, 1)
    disk /= np.pi * (semiangle_mrad / mrad_per_pixel) ** 2
    halo = _HALO_MRAD**2 / np.pi * mrad_per_pixel**2 / (radius2 + _HALO_MRAD**2) ** 2
    in_disks = _IN_DISKS * scattered if spots is not None and spots.any() else 0.0
    result: FloatArray = (1 - scattered) * disk + (scattered - in_disks) * halo
    if spots is not None and in_disks:
        result += in_disks * np.clip(signal.oaconvolve(spots, _odd(disk), mode="same"), 0.0, None)
    return result


def _odd(disk: FloatArray) -> FloatArray:
    """Return a disk centred on a pixel, for one centred between pixels would shift what it is convolved with."""
    return disk if all(n % 2 for n in disk.shape) else 0.25 * (
        np.pad(disk, ((0, 1), (0, 1))) + np.pad(disk, ((1, 0), (0, 1)))
        + np.pad(disk, ((0, 1), (1, 0))) + np.pad(disk, ((1, 0), (1, 0)))
    )


def bragg_spots(
    specimen: Specimen, point: ArrayLike, shape: tuple[int, int], mrad_per_pixel: float, energy_ev: float
) -> FloatArray:
    """Return where the lattice around a point (Å) scatters to, ``(H, W)`` with a sum of 1, or zero where none is.

    The kinematic pattern ``|sum_j Z_j exp(-2 pi i k r_j)|²`` of the atoms within some Å of the point, less the
    undeflected beam, falling off with the angle as the halo does: its spots are at the reciprocal lattice of these
    atoms, as strained as they are.
    """
    apart = specimen.positions[:, :2] - np.asarray(point, dtype=float)
    near = np.abs(apart).max(axis=1) < 3 * _NEIGHBOURHOOD
    apart, numbers = apart[near], specimen.numbers[near]
    weight = numbers * np.exp(-(apart**2).sum(axis=1) / (2 * _NEIGHBOURHOOD**2))
    y, x = ((np.arange(n) - (n - 1) / 2) * mrad_per_pixel for n in shape)
    per_mrad = 1e-3 / wavelength(energy_ev)
    along_y, along_x = (
        np.exp(-2j * np.pi * per_mrad * np.outer(angles, along)).astype(np.complex64)
        for angles, along in ((y[: (len(y) + 1) // 2], apart[:, 1]), (x, apart[:, 0]))
    )
    half = np.abs((along_y * weight.astype(np.float32)) @ along_x.T).astype(float) ** 2
    whole = np.concatenate([half, half[::-1, ::-1][len(y) % 2 :]])  # the other half mirrors it
    radius2 = y[:, None] ** 2 + x[None] ** 2
    falling = 1 / (radius2 + _HALO_MRAD**2) ** 2 * (1 - np.exp(-radius2 / (2 * _UNDEFLECTED_MRAD**2)))
    spots: FloatArray = whole * falling
    total = spots.sum()
    return spots / total if total > 0 else spots


def scattered_fraction(specimen: Specimen, point: ArrayLike, probe_sigma: float) -> float:
    """Return the fraction of the beam that leaves the disk for the halo at a point (Å): twice the MAADF signal."""
    point = np.asarray(point, dtype=float)
    d2 = ((specimen.positions[:, :2] - point) ** 2).sum(axis=1)
    profile = np.exp(-d2 / (2 * probe_sigma**2)) / (2 * np.pi * probe_sigma**2)
    return float(min(2 * (profile * cross_section(specimen.numbers, "MAADF")).sum(), 0.9))
