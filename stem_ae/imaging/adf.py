"""Annular dark field images of atoms: incoherent, ``image(r) = sum_i sigma_i p(r - r_i)``."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stem_ae.atoms import as_sampling
from stem_ae.imaging.probe import Probe

FloatArray = NDArray[np.float64]

_FINEST_NEEDED = 0.16  # Å: on this grid the B-spline's images are below 1e-4 of the signal for any probe of interest
_MARGIN = 6.0  # Å around the frame, for the tails of atoms beyond its edge


def expected_fraction(
    xy: FloatArray,
    weights: FloatArray,
    shape: tuple[int, int],
    sampling: float | tuple[float, float],
    probe: Probe,
    blur: float = 0.0,
    line_shifts: FloatArray | None = None,
) -> FloatArray:
    """Return the fraction of the beam that reaches the detector, per pixel.

    Atoms are spread on the grid by cubic B-splines, whose transfer function is divided out where the probe's is
    multiplied in (a non-uniform Fourier transform), so that positions are exact to about 1e-4 pixel.

    Parameters
    ----------
    xy : (N, 2) array
        Positions in Å in the image's frame: x then y, origin at the centre of the top-left pixel.
    weights : (N,) array
        Cross sections in Å².
    shape : (int, int)
        ``(H, W)`` in pixels.
    sampling : float or (float, float)
        Å per pixel, ``(y, x)`` if two.
    probe : Probe
        The beam.
    blur : float
        Standard deviation in Å of the atoms' thermal motion in projection.
    line_shifts : (H,) array, optional
        Where each scan line really started, in Å along x (line jitter).

    Returns
    -------
    (H, W) array
    """
    dy, dx = as_sampling(sampling)
    fine_y, fine_x = int(np.ceil(dy / _FINEST_NEEDED)), int(np.ceil(dx / _FINEST_NEEDED))
    hy, hx = dy / fine_y, dx / fine_x
    pad_y, pad_x = int(np.ceil(_MARGIN / hy)), int(np.ceil(_MARGIN / hx))
    ny = int(fft.next_fast_len(shape[0] * fine_y + 2 * pad_y, real=True))
    nx = int(fft.next_fast_len(shape[1] * fine_x + 2 * pad_x, real=True))
    deposit = _spread(xy[:, 1] / hy + pad_y, xy[:, 0] / hx + pad_x, weights, (ny, nx))
    spectrum = fft.rfft2(deposit) * _transfer(probe, (ny, nx), (hy, hx), blur)
    if line_shifts is None:
        fine: FloatArray = fft.irfft2(spectrum, (ny, nx))
        image = fine[pad_y : pad_y + shape[0] * fine_y : fine_y, pad_x : pad_x + shape[1] * fine_x : fine_x]
    else:
        lines = fft.ifft(spectrum, axis=0)[pad_y : pad_y + shape[0] * fine_y : fine_y]
        lines = lines * np.exp(2j * np.pi * fft.rfftfreq(nx, hx) * np.asarray(line_shifts)[:, None])
        image = fft.irfft(lines, nx, axis=1)[:, pad_x : pad_x + shape[1] * fine_x : fine_x]
    return np.maximum(image, 0.0)  # ringing of the division can reach -1e-6


@functools.lru_cache(maxsize=16)
def _transfer(probe: Probe, shape: tuple[int, int], spacing: tuple[float, float], blur: float) -> FloatArray:
    """Probe and thermal motion over the spline's own transfer function, on the half-complex grid."""
    (ny, nx), (hy, hx) = shape, spacing
    fy, fx = fft.fftfreq(ny, hy)[:, None], fft.rfftfreq(nx, hx)[None, :]
    window = (np.sinc(fy * hy) * np.sinc(fx * hx)) ** 4
    motion = np.exp(-2 * (np.pi * blur) ** 2 * (fx**2 + fy**2))
    transfer: FloatArray = probe.otf(fx, fy) * motion / window / (hx * hy)
    return transfer


def _spread(rows: FloatArray, columns: FloatArray, weights: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Spread points on a periodic grid with a cubic B-spline; points beyond the grid are left out."""
    ny, nx = shape
    inside = (rows >= 2) & (rows < ny - 3) & (columns >= 2) & (columns < nx - 3)
    rows, columns, weights = rows[inside], columns[inside], weights[inside]
    r0, c0 = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    wr, wc = _cubic_b_spline(rows - r0), _cubic_b_spline(columns - c0)
    offsets = np.arange(-1, 3)
    index = (r0[:, None, None] + offsets[:, None]) * nx + c0[:, None, None] + offsets
    value = weights[:, None, None] * wr[:, :, None] * wc[:, None, :]
    flat: FloatArray = np.bincount(index.ravel(), value.ravel(), ny * nx).astype(float, copy=False)
    return flat.reshape(ny, nx)


def _cubic_b_spline(t: FloatArray) -> FloatArray:
    """Weights ``(N, 4)`` of the grid points -1, 0, 1, 2 for a point at fraction ``t`` of its cell."""
    u = 1 - t
    return np.stack([u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3], axis=-1) / 6
