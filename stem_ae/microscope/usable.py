"""Which frames, images and readings are usable. All measurements of plans are checked here, and nowhere else.

A detector that fails seldom reports it. It still delivers frames: of NaN, of zeros, of another size, or of dark noise.
Such a frame must not count as a measurement.

======================  ================================================================================================
not usable              means
======================  ================================================================================================
empty                   no pixel at all
of the wrong shape      not the number of axes that the detector has, or another shape than the run's first frame
without numbers         no real numbers at all, or more than :data:`MOST_MISSING` (10 %) of the pixels are NaN, infinite
                        or masked
constant                every pixel reads the same: zero, or any other value
nothing but noise       the mean is at most 5 standard errors above zero, and no three pixels are more than 6 standard
                        deviations above the median (both from the median absolute deviation): a camera without beam
uncalibrated            a channel's width is zero, NaN or infinite
a reading               its counts are NaN or infinite, or its time is not positive; many readings: none is above zero,
                        or they are nothing but noise as above
======================  ================================================================================================

Up to 10 % of missing pixels are tolerated: registration leaves them out (:mod:`stem_ae.microscope.registration`),
everything else gets the nearest pixel's value (:func:`filled`). Documents keep the frame as it came, and beside it the
number of missing pixels.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from stem_ae.errors import StemAeError
from stem_ae.microscope.frame import CameraFrame, Reading, unmasked

FloatArray = NDArray[np.float64]

MOST_MISSING = 0.1
"""Share of the pixels that may be NaN or infinite."""
_DARK_MEAN = 5.0  # standard errors
_DARK_PEAK = 6.0  # standard deviations; of 512 noisy channels none reaches it in a million frames
_PEAKS = 3  # pixels: one or two may be cosmic rays
_FEWEST, _ENOUGH = 16, 100_000  # pixels of which noise can be told from signal
_MAD = 1.4826  # standard deviation of a normal distribution, over its median absolute deviation


class Unusable(StemAeError):  # noqa: N818  (the detector's doing)
    """The data of a detector are not usable; the message says why."""


def still_unusable(reason: str, patience_s: float) -> Unusable:
    """Return the error that ends a run after a detector was unusable for so many seconds."""
    return Unusable(f"{reason} This has lasted for {patience_s:.0f} s: fix it and start again.")


def missing(data: ArrayLike) -> int:
    """Return how many pixels are NaN or infinite."""
    array = np.asarray(data)
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def filled(data: ArrayLike) -> NDArray[np.float32]:
    """Return a frame whose missing pixels get the value of the nearest valid one; the frame itself if none is."""
    array = np.asarray(data, dtype=np.float32)
    there = np.isfinite(array)
    if there.all() or not there.any():
        return array
    nearest = ndimage.distance_transform_edt(~there, return_distances=False, return_indices=True)
    result: NDArray[np.float32] = array[tuple(nearest)]
    return result


def filled_frame(frame: CameraFrame) -> CameraFrame:
    """Return a camera's frame without missing pixels; see :func:`filled`."""
    return dataclasses.replace(frame, data=filled(frame.data)) if missing(frame.data) else frame


def problem_of(data: ArrayLike, what: str, shape: tuple[int, ...] | None = None, axes: int | None = None) -> str:
    """Return why a frame is not usable; empty if it is.

    Parameters
    ----------
    data : array
        The frame.
    what : str
        Who gave it, such as ``"The eels camera"``: the sentence begins with that.
    shape : tuple of int, optional
        What its shape has to be.
    axes : int, optional
        How many axes it has to have.
    """
    array = unmasked(data)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        return f"{what} gives frames that hold no {'real ' if np.iscomplexobj(array) else ''}numbers."
    if array.size == 0:
        return f"{what} gives empty frames."
    if shape is not None and array.shape != shape:
        return f"{what} gives frames of {_pixels(array.shape)} pixels instead of {_pixels(shape)}."
    if axes is not None and array.ndim != axes:
        return f"{what} gives frames with {array.ndim} axes ({_pixels(array.shape)} pixels) instead of {axes}."
    there = array[np.isfinite(array)].astype(np.float64)
    if not len(there):
        return f"{what} gives frames without a single number: all of their pixels are NaN or infinite."
    if len(there) < (1 - MOST_MISSING) * array.size:
        share = 100 * (1 - len(there) / array.size)
        return f"{what} gives frames with {share:.0f} % of their pixels NaN or infinite."
    return _nothing_in(there, what)


def _nothing_in(values: FloatArray, what: str) -> str:
    """Return why the pixels show nothing; empty if they show something."""
    if len(values) < 2:
        return ""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"{what} gives no counts: every pixel reads {low:g}."
    if is_dark(values):
        return f"{what} gives no counts: its frames are nothing but noise around {np.median(values):.2g}."
    return ""


def is_dark(values: FloatArray) -> bool:
    """Return whether values ``(n,)`` are nothing but noise around zero; never of fewer than 16."""
    if len(values) < _FEWEST:
        return False
    values = values[:: max(len(values) // _ENOUGH, 1)]
    middle = np.median(values)
    deviation = _MAD * np.median(np.abs(values - middle))
    peak = np.partition(values, -_PEAKS)[-_PEAKS]
    near_zero = values.mean() <= _DARK_MEAN * deviation / math.sqrt(len(values))
    return bool(deviation > 0 and near_zero and peak <= middle + _DARK_PEAK * deviation)


def problem_of_camera(
    frame: CameraFrame, name: str, shape: tuple[int, ...] | None = None, scan: tuple[int, int] | None = None
) -> str:
    """Return why a camera's frame (with ``scan``: those of all pixels of a scan) is not usable; empty if it is.

    Parameters
    ----------
    frame : CameraFrame
    name : str
        The camera's, ``"eels"`` or ``"diffraction"``.
    shape : tuple of int, optional
        What its shape has to be.
    scan : (int, int), optional
        Rows and columns, if there is a frame for each pixel of a scan; then each of them has to have its pixels.
    """
    what = f"The {name} camera"
    if not (_is_number(frame.offset) and _is_number(frame.scale) and frame.scale != 0):
        begins = f"it begins at {frame.offset} {frame.unit}, and a channel is {frame.scale} {frame.unit} wide"
        return f"{what} has no calibration: {begins}."
    if not (_is_number(frame.exposure_s) and frame.exposure_s > 0):
        return f"{what} gives exposures of {frame.exposure_s} s."
    axes = (1 if name == "eels" else 2) + (2 if scan else 0)
    problem = problem_of(frame.data, what, shape, axes)
    if problem or not scan:
        return problem
    if frame.data.shape[:2] != scan:
        return f"{what} gives {_pixels(frame.data.shape[:2])} exposures instead of {_pixels(scan)}."
    each = frame.data.reshape(*frame.data.shape[:2], -1)
    lost = np.count_nonzero(np.isfinite(each).mean(axis=-1) < 1 - MOST_MISSING)
    if lost:
        return f"{what} gives NaN or infinite pixels at {lost} of the {each[..., 0].size} places of a scan."
    empty = np.count_nonzero(np.nanmin(each, axis=-1) == np.nanmax(each, axis=-1))
    if empty:
        return f"{what} gives no counts at {empty} of the {each[..., 0].size} places of a scan."
    return next(filter(None, (problem_of(row, what) for row in frame.data)), "")


def problem_of_reading(reading: Reading) -> str:
    """Return why a reading of the dark-field detector is not usable; empty if it is."""
    if not _is_number(reading.counts):
        return f"The dark-field detector gives {reading.counts} counts."
    if not (_is_number(reading.exposure_s) and reading.exposure_s > 0):
        return f"The dark-field detector gives readings of {reading.exposure_s} s."
    return ""


def problem_of_readings(readings: Sequence[Reading]) -> str:
    """Return why all readings of one exposure together do not show a beam; empty if they do, or there are none."""
    counts = np.array([reading.counts for reading in readings])
    if len(counts) and (counts.max() <= 0 or is_dark(counts)):
        return "The dark-field detector counts nothing, though the beam should be on the specimen."
    return ""


def _is_number(value: Any) -> bool:
    """Return whether a driver has given a real, finite number."""
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _pixels(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no"
