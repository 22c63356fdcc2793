"""How far one image is displaced against another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, signal

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]

_FARTHEST = 0.25  # of the image's shorter side
_NEAR = 2.0  # pixels: what the second look may still find


def shift_between(reference: ArrayLike, image: ArrayLike) -> tuple[float, float]:
    """Return how far what the reference shows has moved in the image, rows and columns in pixels.

    The peak of the cross-correlation of both (means taken off, edges tapered), refined by the parabola through it and
    its neighbours. A lattice looks the same one period further: the smallest of equally good shifts is meant, so the
    drift between two images has to stay below half a period.

    Raises
    ------
    StemAeError
        If the images have different shapes or show nothing.
    """
    first, second = np.asarray(reference, float), np.asarray(image, float)
    if first.shape != second.shape or first.ndim != 2:
        raise StemAeError(f"Images of {first.shape} and {second.shape} pixels cannot be registered.")
    row, column = _peak(first, second, _FARTHEST * min(first.shape))
    # Once more with what both images show, so that neither the taper nor the rest of the scene pulls towards zero.
    shift = (round(row), round(column))
    fine = _peak(_overlap(first, shift), _overlap(second, (-shift[0], -shift[1])), _NEAR)
    return shift[0] + fine[0], shift[1] + fine[1]


def _overlap(image: FloatArray, shift: tuple[int, int]) -> FloatArray:
    """Return the part of an image that is still in view after it has moved."""
    (rows, columns), (height, width) = shift, image.shape
    return image[max(-rows, 0) : height - max(rows, 0), max(-columns, 0) : width - max(columns, 0)]


def _peak(first: FloatArray, second: FloatArray, reach: float) -> tuple[float, float]:
    """Return where the cross-correlation is largest, within ``reach`` pixels."""
    window = np.outer(*(signal.windows.tukey(n, 0.5) for n in first.shape))
    first, second = ((a - a.mean()) * window for a in (first, second))
    if not (first.any() and second.any()):
        raise StemAeError("An image without any contrast cannot be registered: scan where something is to be seen.")
    correlation = fft.fftshift(fft.irfft2(fft.rfft2(second) * np.conj(fft.rfft2(first)), first.shape))
    middle = np.array(first.shape) // 2
    offsets = [np.arange(n) - m for n, m in zip(first.shape, middle, strict=True)]
    distance = np.hypot(offsets[0][:, None], offsets[1][None]) / reach
    # A gentle slope decides between a lattice's equally good shifts.
    preferred = np.where(distance <= 1, correlation - 0.1 * correlation.max() * distance, -np.inf)
    row, column = np.unravel_index(int(preferred.argmax()), correlation.shape)
    along_rows = _vertex(correlation.take(range(row - 1, row + 2), 0, mode="wrap")[:, column])
    along_columns = _vertex(correlation.take(range(column - 1, column + 2), 1, mode="wrap")[row])
    return float(row - middle[0] + along_rows), float(column - middle[1] + along_columns)


def _vertex(values: FloatArray) -> float:
    left, middle, right = values
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0
