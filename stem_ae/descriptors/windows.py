"""Windows of an image: where they are, and what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def as_image(image: ArrayLike) -> FloatArray:
    """Return the image as a finite 2-D float array ``(H, W)``.

    Raises
    ------
    StemAeError
        If it is not one.
    """
    array = np.asarray(image, dtype=float)
    if array.ndim != 2 or array.size == 0:
        raise StemAeError(f"An image of shape {array.shape} was given: give one grey-scale image (H, W).")
    if not np.all(np.isfinite(array)):
        raise StemAeError("The image holds NaN or infinite pixels: replace or crop them.")
    return array


def regular_centres(shape: tuple[int, int], size: int, step: int = 1) -> IntArray:
    """Return the centres ``(k, 2)``, (row, column), of all whole windows, row by row, ``step`` pixels apart.

    The centre of a window is its pixel ``size // 2``: the window of centre ``r`` covers the rows
    ``r - size // 2 ... r - size // 2 + size - 1``.

    Raises
    ------
    StemAeError
        If no window fits.
    """
    if size < 1 or step < 1 or size > min(shape):
        raise StemAeError(f"No window of {size} pixels with step {step} fits an image of {shape[0]}x{shape[1]} pixels.")
    rows, columns = (np.arange(size // 2, length - size + size // 2 + 1, step) for length in shape)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def cut(image: FloatArray, centres: IntArray, size: int) -> FloatArray:
    """Return the windows ``(k, size, size)`` around pixel centres; beyond the image's edge it is mirrored."""
    before, after = size // 2, size - size // 2 - 1
    padded = np.pad(image, (before, after), mode="reflect" if size <= min(image.shape) else "symmetric")
    windows: FloatArray = sliding_window_view(padded, (size, size))[centres[:, 0], centres[:, 1]]
    return windows


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one image at given centres, cut in blocks so that large maps fit the memory.

    Parameters
    ----------
    image : (H, W) array
    centres : (k, 2) integer array
        Row and column of each window's centre pixel.
    size : int
        Edge in pixels.
    """

    image: FloatArray
    centres: IntArray
    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", as_image(self.image))
        centres = np.asarray(self.centres)
        if centres.ndim != 2 or centres.shape[1] != 2 or len(centres) == 0:
            raise StemAeError(f"Window centres of shape {centres.shape} were given: give (k, 2), row and column.")
        if not np.all(centres == np.round(centres)):
            raise StemAeError("Window centres are whole pixels (row, column): round them.")
        centres = centres.astype(np.int64)
        if np.any(centres < 0) or np.any(centres >= self.image.shape):
            raise StemAeError(f"A window centre lies outside the image of {self.image.shape} pixels.")
        if not 1 <= self.size <= min(self.image.shape):
            raise StemAeError(f"A window of {self.size} pixels does not fit an image of {self.image.shape} pixels.")
        object.__setattr__(self, "centres", centres)

    @classmethod
    def regular(cls, image: ArrayLike, size: int, step: int = 1) -> Windows:
        """Return all whole windows of an image, ``step`` pixels apart."""
        image = as_image(image)
        return cls(image, regular_centres((image.shape[0], image.shape[1]), size, step), size)

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Shape of a map of one number per window: ``(rows, columns)`` where the centres fill a grid, else ``(k,)``."""
        rows, columns = (np.unique(self.centres[:, axis]) for axis in (0, 1))
        full = len(rows) * len(columns) == len(self.centres) == len(np.unique(self.centres, axis=0))
        return (len(rows), len(columns)) if full else (len(self.centres),)

    def as_map(self, values: NDArray[np.float64]) -> FloatArray:
        """Arrange one number (or row) per window, ``(k, ...)``, as a map of :attr:`map_shape`."""
        shape = self.map_shape
        order = np.lexsort((self.centres[:, 1], self.centres[:, 0])) if len(shape) == 2 else slice(None)
        return np.asarray(values)[order].reshape(*shape, *np.shape(values)[1:])

    def all(self) -> FloatArray:
        """Return every window, ``(k, size, size)``."""
        return cut(self.image, self.centres, self.size)

    def blocks(self, length: int = 8192) -> Iterator[FloatArray]:
        """Yield the windows in order, at most ``length`` at a time."""
        for start in range(0, len(self), length):
            yield cut(self.image, self.centres[start : start + length], self.size)
