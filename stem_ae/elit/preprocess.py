"""From any image to what the networks see: one physical sampling, no bad pixels, local contrast.

Every step is a small matrix on each side of the image, so that a 512 x 512 frame costs a few milliseconds, and
the geometry is exact: pixel ``k`` of the working grid is centred ``k * sampling`` Å from the centre of the image's
first pixel.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.sparse import csr_matrix

from stem_ae.atoms import as_sampling
from stem_ae.errors import StemAeError

Image = NDArray[np.float32]
Blank = NDArray[np.bool_]

_LOCAL_WIDTH = 6.0  # Å: contrast is measured over a few unit cells
_FLOOR = 0.3  # of the frame's contrast: below it an area counts as empty, and its noise is not blown up
_SMALLEST_SIDE = 8.0  # Å
LARGEST_SIDE = 4096
"""Pixels of the working grid: more do not fit into memory."""
_OUTLIER = 9.0  # standard deviations from the neighbours
_DWARFED = 256.0  # times the contrast: a higher pedestal leaves single precision less than 16 bits for the contrast
_FAINTEST, _STRONGEST = 1e-5, 1e9  # contrast beyond which squares and small constants overflow or dominate
_DARK = 20  # percentile of an image that stands for its background
_BLANK_WIDTH, _SATURATED = 1.2, 4.0  # Å: a smaller area of one value may be an atom's, with few counts or too many
_SHARE_ALIKE = 0.002  # of the pixels, like the one above them: less is chance
_DEAD_LINES = 4  # most adjacent lines of one value that count as dead: more are a part that was not scanned


def as_image(image: ArrayLike) -> Image:
    """Return a 2-D float32 array, or say what is wrong with it.

    A pedestal that dwarfs the contrast is subtracted, and contrast that is extremely small or large is scaled to
    about one, both in double precision: see :func:`standardised`.

    Raises
    ------
    StemAeError
        If the image is not 2-D, is empty, has pixels that are NaN, infinite or masked, or is the same everywhere.
    """
    return standardised(image)[0]


def standardised(image: ArrayLike) -> tuple[Image, float]:
    """Return what :func:`as_image` returns, and by what its numbers have to be multiplied to be the image's again.

    The factor is 1 for ordinary images. The pedestal does not come back.

    Raises
    ------
    StemAeError
        As :func:`as_image`.
    """
    array = np.ma.asarray(image) if np.ma.isMaskedArray(image) else np.asarray(image)
    if array.ndim != 2:
        raise StemAeError(f"The image has {array.ndim} dimensions {array.shape}: give one 2-D frame.")
    if array.size == 0:
        raise StemAeError("The image is empty: give a frame with pixels.")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise StemAeError(f"The image holds {array.dtype} values: give real numbers.")
    values = np.ma.filled(array.astype(float), np.nan) if np.ma.isMaskedArray(array) else array
    missing = int(values.size - np.isfinite(values).sum())
    if missing:
        raise StemAeError(f"The image has {missing} pixels that are NaN, infinite or masked: replace them first.")
    if values.min() == values.max():
        raise StemAeError(f"The image is {values.flat[0]:g} everywhere: is the beam blanked or the detector out?")
    few = np.asarray(values[:: 1 + values.shape[0] // 256, :: 1 + values.shape[1] // 256], dtype=float)
    low, middle, high = (float(level) for level in np.percentile(few, [1, 50, 99]))
    contrast = high - low or float(values.max()) - float(values.min())
    pedestal = middle if abs(middle) > _DWARFED * contrast else 0.0
    factor = 1.0 if _FAINTEST < contrast < _STRONGEST else float(2.0 ** np.round(np.log2(contrast) - 8))
    if pedestal == 0.0 and factor == 1.0:
        return values.astype(np.float32), 1.0
    # Before single precision, whose 24 bits would hold little but the pedestal.
    return ((values.astype(float) - pedestal) / factor).astype(np.float32), factor


def without_blank(image: Image, sampling: tuple[float, float]) -> tuple[Image, Blank | None]:
    """Return the image with its blank areas filled evenly, and where they are.

    Blank is what holds one value only over more than an atom's width, as where a scan was not finished. Bright atoms
    that saturate a detector do so too, hence an area at the image's largest value has to be wider.

    Parameters
    ----------
    image : (H, W) array
        From :func:`as_image`.
    sampling : (float, float)
        Å per pixel, ``(y, x)``.

    Returns
    -------
    (H, W) float32 array, (H, W) bool array or None
        None if there are no blank areas.
    """
    if (image[1:] == image[:-1]).mean() < _SHARE_ALIKE:  # the usual case: noise is hardly ever twice the same
        return image, None
    saturated = image == image.max()
    empty = (_even(image, _BLANK_WIDTH, sampling) & ~saturated) | (_even(image, _SATURATED, sampling) & saturated)
    if not empty.any() or empty.all():
        return image, None
    return np.where(empty, np.percentile(image[~empty], _DARK), image).astype(np.float32), empty


def _even(image: Image, width: float, sampling: tuple[float, float]) -> Blank:
    """Return the areas that are covered by squares of one value, ``width`` Å wide."""
    size = tuple(max(3, int(np.ceil(width / step))) | 1 for step in sampling)  # odd, so that it has a middle
    middles = ndimage.minimum_filter(image, size) == ndimage.maximum_filter(image, size)
    result: Blank = ndimage.maximum_filter(middles, size)
    return result


def to_working_grid(image: Image, sampling: float | tuple[float, float], working: float) -> Image:
    """Return the resampled and normalised frame.

    Parameters
    ----------
    image : (H, W) float32 array
        From :func:`as_image`, with bad pixels repaired by :func:`repair`.
    sampling : float or (float, float)
        Å per pixel of the image.
    working : float
        Å per pixel of the networks.

    Returns
    -------
    (h, w) float32 array
        About zero mean and unit standard deviation everywhere on the specimen.

    Raises
    ------
    StemAeError
        If the field of view is smaller than 8 Å or absurdly large.
    """
    dy, dx = as_sampling(sampling)
    refuse_small_field(image.shape, (dy, dx))
    height, width = image.shape[0] * dy, image.shape[1] * dx
    if max(height, width) > LARGEST_SIDE * working:
        raise StemAeError(
            f"The field of view is {width:.4g} x {height:.4g} Å at {dx:.3g} Å per pixel: "
            "atoms are not resolved there, so check the sampling or take a smaller region."
        )
    shape = (grid_length(image.shape[0], dy, working), grid_length(image.shape[1], dx, working))
    return normalise(resample(image, (dy, dx), shape, (working, working)), working)


def refuse_small_field(shape: tuple[int, ...], sampling: tuple[float, float]) -> None:
    """Raise StemAeError if an image of this many pixels shows less than atoms need."""
    dy, dx = sampling
    height, width = shape[0] * dy, shape[1] * dx
    if min(height, width) < _SMALLEST_SIDE:
        raise StemAeError(
            f"The field of view is {width:.3g} x {height:.3g} Å at {dx:.3g} Å per pixel: "
            f"atoms need at least {_SMALLEST_SIDE:g} Å, so check the sampling."
        )


def grid_length(pixels: int, sampling: float, working: float) -> int:
    """Return how many working pixels cover ``pixels`` image pixels."""
    return int(np.ceil((pixels - 1) * sampling / working - 1e-9)) + 1


def resample(image: Image, old: tuple[float, float], shape: tuple[int, int], new: tuple[float, float]) -> Image:
    """Return the image on a grid of another sampling, Å per pixel along (y, x), with the same first pixel."""
    rows = _resampling_matrix(image.shape[0], old[0], shape[0], new[0])
    columns = _resampling_matrix(image.shape[1], old[1], shape[1], new[1])
    result: Image = np.ascontiguousarray((columns @ (rows @ image).T).T)
    return result


@functools.lru_cache(maxsize=64)
def _resampling_matrix(n_in: int, d_in: float, n_out: int, d_out: float) -> csr_matrix:
    """Return the ``(n_out, n_in)`` matrix that takes samples every ``d_in`` Å to samples every ``d_out`` Å.

    A triangle as wide as the coarser of the two grids: linear interpolation upwards, an average that wastes no electron
    downwards. Sparse, not only because it is: the threads of a dense product spin on for a while, and in Nion Swift's
    process that has cost half a core.
    """
    reach = max(d_in, d_out)
    distance = np.abs(np.arange(n_out)[:, None] * d_out - np.arange(n_in)[None, :] * d_in)
    weight = np.clip(1 - distance / reach, 0, None)
    outside = weight.sum(1) == 0  # the last working pixel can lie beyond the last image pixel
    weight[outside, -1] = 1
    return csr_matrix((weight / weight.sum(1, keepdims=True)).astype(np.float32))


def repair(image: Image) -> Image:
    """Return the image with hot or dead pixels and constant lines replaced from their neighbours."""
    image = _repair_lines(_repair_lines(image).T).T
    padded = np.pad(image, 1, mode="reflect")
    around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    middle = (around.sum(0) - around.max(0) - around.min(0)) / 2  # median of the four neighbours
    deviation = image - middle
    # The spread must not be set by the very pixels it is to find: leave out the largest thousandth.
    square = deviation * deviation
    largest = np.partition(square.ravel(), -(square.size // 1000 + 2))[-(square.size // 1000 + 2)]
    spread = np.sqrt(np.minimum(square, largest).mean())
    return np.where(np.abs(deviation) > _OUTLIER * spread, middle, image).astype(np.float32)


def _repair_lines(image: Image) -> Image:
    """Replace rows that hold one value, unless there are many side by side, by the rows beside them."""
    dead = image.min(1) == image.max(1)
    if not dead.any() or dead.all():
        return image
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dead, [False]])))
    for start, stop in edges.reshape(-1, 2):
        if stop - start > _DEAD_LINES:
            dead[start:stop] = False
    if not dead.any():
        return image
    alive = np.flatnonzero(~dead)
    result = image.copy()
    for row in np.flatnonzero(dead):
        below, above = alive[alive < row], alive[alive > row]
        beside = [below[-1]] if len(below) else []
        beside += [above[0]] if len(above) else []
        result[row] = image[beside].mean(0)
    return result


def normalise(image: Image, working: float) -> Image:
    """Return the image with its local mean removed and divided by its local contrast."""
    rows = _smoothing_matrix(image.shape[0], _LOCAL_WIDTH / working)
    columns = _smoothing_matrix(image.shape[1], _LOCAL_WIDTH / working)
    flat = image - rows @ image @ columns.T
    variance = rows @ (flat * flat) @ columns.T
    # The median, so that one bright particle does not turn the rest into "empty".
    floor = _FLOOR**2 * float(np.median(variance)) + 1e-30
    result: Image = np.clip(flat / np.sqrt(np.maximum(variance, floor)), -6, 10)
    return result


@functools.lru_cache(maxsize=64)
def _smoothing_matrix(n: int, sigma: float) -> Image:
    k = np.arange(n)
    matrix = np.exp(-((k[:, None] - k[None, :]) ** 2) / (2 * sigma**2))
    result: Image = (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)
    return result
