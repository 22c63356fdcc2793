"""The arrays of a file: their axes say whether they are images; their numbers are read on demand."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.imageio.units import quantity, spelled, to_angstrom

Index = tuple[int | slice, ...]
Take = Callable[[Index], NDArray[Any]]
Role = Literal["frame", "image", "colour", ""]
"""What an axis is for, as far as the file says: it numbers frames, spans an image, or holds colours."""

_SMALLEST_SIDE = 8
"""Pixels: what is smaller is a table."""

_ALWAYS_READ = 1 << 30
"""Bytes that are read without further checks."""

_COMPRESSED = 50
"""Largest ratio of a larger array to its file: headers of damaged files may claim anything."""

_KINDS = {"energy": "a spectrum", "time": "a trace over time", "reciprocal": "a diffraction pattern",
          "angle": "a diffraction pattern"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of an array: the size of its steps, their unit as the file spells it, and what it is for."""

    scale: Any = None
    units: str | None = None
    role: Role = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """One array of a file.

    Parameters
    ----------
    title : str
        Its name in the file.
    shape : tuple of int
        As it is stored.
    dtype : dtype
        As it is stored.
    axes : sequence of Axis
        One for each dimension, or none if the file says nothing of them.
    take : callable
        Returns the numbers at an index, one entry for each dimension, as NumPy would.
    kind : str
        What it is if the file says that it is not an image, such as ``"a spectrum"``.
    missing : number, optional
        What stands where nothing was measured.
    """

    title: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: Sequence[Axis]
    take: Take
    kind: str = ""
    missing: float | None = None

    @classmethod
    def of_array(cls, title: str, array: Any, axes: Sequence[Axis] = (), **more: Any) -> Signal:
        """Return the signal of anything that has a shape and a type, and is indexed as NumPy's arrays are."""
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
        return cls(title, shape, dtype, axes, lambda index: np.asarray(array[index]), **more)

    # --- what it is -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _long(self) -> list[int]:
        """Dimensions that count: those of length one do not, nor do colours."""
        colours = self._colour
        return [k for k, n in enumerate(self.shape) if n != 1 and k != colours]

    @functools.cached_property
    def _colour(self) -> int | None:
        for k, axis in enumerate(self.axes):
            if axis.role == "colour":
                return k
        last = len(self.shape) - 1
        if not self.axes and last >= 2 and self.shape[-1] in (3, 4) and self.dtype == np.uint8:
            return last
        return None

    def _axis(self, dimension: int) -> Axis:
        return self.axes[dimension] if len(self.axes) == len(self.shape) else Axis()

    @functools.cached_property
    def image_axes(self) -> tuple[int, int] | None:
        """The dimensions of an image, rows then columns, if there are two."""
        chosen = [k for k in self._long if self._axis(k).role == "image"] or self._long[-2:]
        return (chosen[-2], chosen[-1]) if len(chosen) >= 2 else None

    @functools.cached_property
    def frame_axis(self) -> int | None:
        """The dimension that numbers frames, if there is one."""
        others = [k for k in self._long if k not in (self.image_axes or ())]
        return others[0] if others else None

    @functools.cached_property
    def objection(self) -> str:
        """Why it is neither an image nor a series of images, as a clause; empty if it is one."""
        size = "x".join(str(self.shape[k]) for k in self._long) or "1"
        if self.kind:
            return f"only {self.kind} {size}"
        if self.dtype.kind not in "uifb" and not (self.dtype.names and set("RGB") <= set(self.dtype.names)):
            what = "complex numbers" if self.dtype.kind == "c" else "no plain numbers"
            return f"only an array {size} of {what}"
        if self.image_axes is None:
            return f"only an array {size}"
        if strange := self._strange_axis():
            return strange
        if self.frame_axis is not None and self.shape[self.frame_axis] == 0:
            return "no frames"
        if min(self.shape[k] for k in self.image_axes) < _SMALLEST_SIDE:
            return f"only an array {size}"
        if len(self._long) > 3:
            return f"only an array {size} of {len(self._long)} dimensions"
        return ""

    def _strange_axis(self) -> str:
        """Return why the units exclude an image; empty if they do not."""
        size = "x".join(str(self.shape[k]) for k in self._long)
        measured = {k: quantity(self._axis(k).units) for k in self._long}
        # A movie is a series over time, a tilt series one over an angle.
        strange = [
            k for k in self._long if measured[k] in _KINDS
            and not (k == self.frame_axis and measured[k] in ("time", "angle"))
        ]  # fmt: skip
        if not strange:
            return ""
        unit = spelled(self._axis(strange[-1]).units)
        kind = _KINDS[measured[strange[-1]]]
        if len(strange) < len(self._long):
            if kind == "a spectrum":
                return f"only a spectrum image {size}: one of its axes is in {unit}"
            return f"only an array {size} of which an axis is in {unit}, no image"
        return f"no image: its axes are in {unit}: {kind}, not an image"

    @property
    def is_image(self) -> bool:
        """Whether it is one image or a plain series of images."""
        return not self.objection

    @property
    def in_words(self) -> str:
        """Its name and size, for a list."""
        return f"{self.title} {'x'.join(str(self.shape[k]) for k in self._long) or 1}"

    # --- its sampling ------------------------------------------------------------------------------------------------

    @property
    def sampling(self) -> tuple[float, float] | None:
        """Å per pixel of an image, ``(y, x)``, if both axes have a unit of length."""
        if self.image_axes is None:
            return None
        y, x = (to_angstrom(axis.scale, axis.units) for axis in map(self._axis, self.image_axes))
        return None if y is None or x is None else (y, x)

    @property
    def strange_unit(self) -> str:
        """The unit of an image's axes, if it says something that is not understood."""
        units = [self._axis(k).units for k in self.image_axes or ()]
        return next((spelled(unit) for unit in units if quantity(unit) == "unknown"), "")

    # --- its numbers -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many frames there are."""
        return 1 if self.frame_axis is None else self.shape[self.frame_axis]

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        assert self.image_axes is not None  # it is an image
        return self.shape[self.image_axes[0]], self.shape[self.image_axes[1]]

    def frame(self, number: int) -> NDArray[np.float64]:
        """Return one frame, ``(H, W)``; colours become grey, and what was not measured NaN.

        Raises
        ------
        StemAeError
            If it cannot be read.
        """
        assert self.image_axes is not None  # it is an image
        check_size(self.frame_shape, np.dtype(float), self.title)
        whole = {*self.image_axes} | ({self._colour} if self._colour is not None else set())
        index = tuple(
            slice(None) if k in whole else number if k == self.frame_axis else 0 for k in range(len(self.shape))
        )
        try:
            with quiet():
                values = self.take(index)
            if self._colour is not None:
                values = grey(np.moveaxis(values, sorted(whole).index(self._colour), -1))
            elif values.dtype.names:
                values = np.mean([values[channel] for channel in "RGB"], axis=0)
        except StemAeError:
            raise
        except Exception as error:  # readers raise all kinds of errors on a broken file
            raise unreadable(f"frame {number} of {self.title}" if len(self) > 1 else self.title, error) from error
        if np.shape(values) != self.frame_shape:
            raise StemAeError(f"Frame {number} of {self.title} is of {np.shape(values)}, not {self.frame_shape}.")
        result: NDArray[np.float64] = np.ma.filled(np.ma.asarray(values).astype(float), np.nan)
        if self.missing is not None:
            result[np.asarray(values) == self.missing] = np.nan
        return result


def grey(colours: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of red, green and blue along the last axis: of 1 or 3 channels, with or without alpha."""
    channels = colours.shape[-1]
    result: NDArray[Any] = colours[..., : channels if channels in (1, 3) else max(channels - 1, 1)].mean(axis=-1)
    return result


def check_size(shape: Sequence[int], dtype: np.dtype[Any], name: str, path: pathlib.Path | None = None) -> None:
    """Raise StemAeError if an array is too large to be read, or claims to be much larger than its file.

    Parameters
    ----------
    shape, dtype
        Of the array.
    name : str
        What to call it.
    path : path, optional
        The file that it is in.
    """
    size = int(np.prod([int(n) for n in shape], dtype=object)) * max(dtype.itemsize, 1) if len(shape) else 0
    room = max(_ALWAYS_READ, _COMPRESSED * path.stat().st_size if path is not None and path.is_file() else 0)
    if size > min(room, max(_free_memory() / 2, _ALWAYS_READ)):
        times = "x".join(map(str, shape))
        raise StemAeError(
            f"{name} says that it holds {times} numbers ({size / 1e9:.3g} GB), more than can be read at once: is the "
            "file damaged? Of a series, choose one frame."
        )


def _free_memory() -> float:
    """Return how many bytes this machine has."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return 16e9


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence readers' warnings on the terminal: what matters is reported in a sentence."""
    loggers = [logging.getLogger(name) for name in ("rsciio", "tifffile", "PIL", "zarr")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def unreadable(name: str, error: BaseException) -> StemAeError:
    """Return the error for a file that a reader could not read."""
    lines = str(error).strip().splitlines()
    text = "".join(c for c in (lines[0] if lines else "") if c.isprintable())[:200].rstrip(" .")
    if isinstance(error, MemoryError):
        text = "it asks for more memory than there is"
    return StemAeError(f"Cannot read {name}: {text or type(error).__name__}.")
