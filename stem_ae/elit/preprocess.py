"""From any image to what the networks see: one physical sampling, no bad pixels, local contrast.

Every step is a small matrix on each side of the image, so that a 512 x 512 frame costs a few milliseconds, and
the geometry is exact: pixel ``k`` of the working grid is centred ``k * sampling`` Å from the centre of the image's
first pixel.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from stem_ae.atoms import as_sampling
from stem_ae.errors import StemAeError

Image = NDArray[np.float32]

_LOCAL_WIDTH = 6.0  # Å: contrast is measured over a few unit cells
_FLOOR = 0.3  # of the frame's contrast: below it an area counts as empty, and its noise is not blown up
_SMALLEST_SIDE = 8.0  # Å
_OUTLIER = 9.0  # standard deviations from the neighbours


def as_image(image: ArrayLike) -> Image:
    """Return a 2-D float32 array, or say what is wrong with it.

    Raises
    ------
    StemAeError
        If the image is not 2-D, is empty, holds NaN or infinity, or is the same everywhere.
    """
    array = np.asarray(image)
    if array.ndim != 2:
        raise StemAeError(f"The image has {array.ndim} dimensions {array.shape}: give one 2-D frame.")
    if array.size == 0:
        raise StemAeError("The image is empty: give a frame with pixels.")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise StemAeError(f"The image holds {array.dtype} values: give real numbers.")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise StemAeError(f"The image has {bad} pixels that are NaN or infinite: replace them first.")
    if array.min() == array.max():
        raise StemAeError(f"The image is {array.flat[0]:g} everywhere: is the beam blanked or the detector out?")
    return array


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
    height, width = image.shape[0] * dy, image.shape[1] * dx
    if min(height, width) < _SMALLEST_SIDE:
        raise StemAeError(
            f"The field of view is {width:.3g} x {height:.3g} Å at {dx:.3g} Å per pixel: "
            f"atoms need at least {_SMALLEST_SIDE:g} Å, so check the sampling."
        )
    if max(height, width) > 4096 * working:
        raise StemAeError(
            f"The field of view is {width:.4g} x {height:.4g} Å at {dx:.3g} Å per pixel: "
            "atoms are not resolved there, so check the sampling or take a smaller region."
        )
    shape = (grid_length(image.shape[0], dy, working), grid_length(image.shape[1], dx, working))
    return normalise(resample(image, (dy, dx), shape, (working, working)), working)


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
    """Replace rows that hold one value by the rows beside them."""
    dead = image.min(1) == image.max(1)
    if not dead.any() or dead.all():
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
