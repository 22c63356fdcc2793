"""The Fourier modulus of windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class FourierModulus:
    """Modulus of a window's Fourier transform: what lattice is there, wherever its origin.

    A Hann window keeps the frame's edges out; the mean is subtracted first, so that brightness does not matter; the
    modulus, unlike the power, does not leave all weight to the strongest reflections.
    """

    size: int

    @property
    def length(self) -> int:
        """Number of values per window."""
        return self.size * (self.size // 2 + 1)

    def transform(self, windows: FloatArray) -> FloatArray:
        """Return ``(k, length)`` of windows ``(k, size, size)``: half the plane, which the other half mirrors."""
        half = self._taper(windows, np.fft.rfft2)
        return np.fft.fftshift(half, axes=1).reshape(len(windows), -1)

    def plane(self, windows: FloatArray) -> FloatArray:
        """Return the whole plane ``(k, size, size)``, zero frequency in the middle (pixel ``size // 2``)."""
        return np.fft.fftshift(self._taper(windows, np.fft.fft2), axes=(1, 2))

    def _taper(self, windows: FloatArray, transform: Callable[[FloatArray], NDArray[np.complex128]]) -> FloatArray:
        if windows.shape[1:] != (self.size, self.size):
            raise StemAeError(f"Windows of {windows.shape[1:]} were given to a transformation of {self.size} pixels.")
        window = np.hanning(self.size + 2)[1:-1]
        flat = windows - windows.mean(axis=(1, 2), keepdims=True)
        return np.abs(transform(flat * window[:, None] * window[None, :]))
