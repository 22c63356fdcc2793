"""From a file to its frames: which reader, which of its arrays, and what sampling."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import as_sampling
from stem_ae.errors import StemAeError
from stem_ae.files import existing_file
from stem_ae.imageio import hdf5, pictures, swift, vendors
from stem_ae.imageio.signal import Signal, check_size, quiet, unreadable

_LONGEST_LIST = 12
"""Images that are named in a sentence."""


@dataclasses.dataclass(frozen=True)
class ImageStack:
    """The frames of one file.

    Parameters
    ----------
    frames : (N, H, W) array
        One image or a series.
    sampling : (float, float) or None
        Å per pixel, ``(y, x)``; ``None`` where neither file nor user says.
    sampling_source : str
        Where the sampling came from, in words for the user.
    name : str
        The file's name without its suffix.
    """

    frames: NDArray[np.float64]
    sampling: tuple[float, float] | None
    sampling_source: str
    name: str


class Frames(Sequence[NDArray[np.float64]]):
    """The frames of a file, ``(H, W)`` each, read when they are asked for."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal

    def __len__(self) -> int:
        return len(self._signal)

    def __getitem__(self, number: int) -> NDArray[np.float64]:  # type: ignore[override]
        """Return one frame; what was not measured is NaN.

        Raises
        ------
        StemAeError
            If it cannot be read.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._signal.frame(number)


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """The same as :class:`ImageStack`, of which no frame has been read yet.

    Parameters
    ----------
    frames : Frames
        One image or a series.
    sampling, sampling_source, name
        As in :class:`ImageStack`.
    dataset : str
        Which of the file's arrays it is. Where there are several images it is part of the name.
    """

    frames: Frames
    sampling: tuple[float, float] | None
    sampling_source: str
    name: str
    dataset: str


def read(
    path: str | pathlib.Path, *, dataset: str | None = None, sampling: float | Sequence[float] | None = None
) -> ImageStack:
    """Read an image or a series of images.

    Parameters
    ----------
    path : path
        A file that RosettaSciIO reads (``.dm3``, ``.dm4``, ``.mrc``, ``.hspy``, ``.zspy``, ``.emd``, ...), a TIFF or
        another picture, an ``.npy`` (its ``.json`` beside it is used), an HDF5 file, or Swift's ``.ndata1``, ``.nhdf``
        or ``.h5``.
    dataset : str, optional
        Which image, by its name or its number from 0, where the file holds several.
    sampling : float or (float, float), optional
        Å per pixel, one number or ``(y, x)``; wins over what the file says.

    Raises
    ------
    StemAeError
        If the file cannot be read, or does not hold exactly one image and none was named.
    """
    opened = open_images(path, dataset=dataset, sampling=sampling)
    first = opened.frames[0]
    path = pathlib.Path(path)
    check_size((len(opened.frames), *first.shape), first.dtype, path.name, path)
    frames = np.empty((len(opened.frames), *first.shape))
    for number in range(len(frames)):
        frames[number] = opened.frames[number] if number else first
    return ImageStack(frames, opened.sampling, opened.sampling_source, opened.name)


def open_images(
    path: str | pathlib.Path, *, dataset: str | None = None, sampling: float | Sequence[float] | None = None
) -> ImageFile:
    """Find an image or a series in a file, whose frames are read one by one: for what does not fit into memory.

    Parameters and errors are those of :func:`read`.
    """
    path = pathlib.Path(path)
    given = as_sampling(sampling) if sampling is not None else None
    signals = find_signals(path)
    signal = pick(signals, dataset, path.name)
    several = sum(other.is_image for other in signals) > 1
    name = f"{_stem(path)}_{_in_a_name(signal.title)}" if several else _stem(path)
    if given is not None:
        value, source = given, "given by the user"
    elif signal.sampling is not None:
        value, source = signal.sampling, f"stated in {path.name}"
    elif signal.strange_unit:
        value, source = None, f"stated in {signal.strange_unit!r} in {path.name}, which is not understood"
    else:
        value, source = None, f"not stated in {path.name}"
    return ImageFile(Frames(signal), value, source, name, signal.title)


def _in_a_name(title: str) -> str:
    """Return a title as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", title).strip("_.")[:60]


def _stem(path: pathlib.Path) -> str:
    """Return a file's name without its suffix, which may be double."""
    return path.name[: -len(".ome.tif")] if path.name.lower().endswith(".ome.tif") else path.stem


# --- which reader -----------------------------------------------------------------------------------------------------

Reader = Callable[[pathlib.Path], list[Signal]]

_PICTURES = ("png", "jpg", "jpeg", "jpe", "bmp", "dib", "gif", "pgm", "ppm", "pbm", "pnm", "pcx", "webp", "tga")


def find_signals(path: pathlib.Path) -> list[Signal]:
    """Return everything that the file holds, images or not; nothing but their descriptions is read yet.

    Raises
    ------
    StemAeError
        If there is no such file, or no reader understands it.
    """
    if not (path.is_dir() and path.suffix.lower() == ".zspy"):
        existing_file(path)
    try:
        with quiet():
            return _reader(path)(path)
    except StemAeError:
        raise
    except Exception as error:  # readers raise all kinds of errors on a broken file
        raise unreadable(path.name, error) from error


def _reader(path: pathlib.Path) -> Reader:
    """Return what reads a file, by its first bytes where they tell, else by its ending."""
    suffix = path.suffix.lower().lstrip(".")
    if path.is_dir():
        return vendors.read
    with path.open("rb") as stream:
        head = stream.read(1024)
    if not head:
        raise StemAeError(f"{path.name} is empty.")
    if head.startswith(b"\x93NUMPY"):
        return swift.read_npy
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return hdf5.read
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return pictures.read_tiff
    if head.startswith(b"PK") and _holds_a_data_item(path):
        return swift.read_ndata
    if head[208:212] == b"MAP " and suffix != "mrcz":
        return lambda mrc: vendors.read_with("rsciio.mrc", mrc)
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")) or suffix in _PICTURES:
        return pictures.read_picture
    by_ending: dict[str, Reader] = {
        "npy": swift.read_npy, "ndata": swift.read_ndata, "ndata1": swift.read_ndata, "tif": pictures.read_tiff,
        "tiff": pictures.read_tiff, "h5": hdf5.read, "hdf5": hdf5.read, "hspy": hdf5.read, "nhdf": hdf5.read,
        "emd": hdf5.read,
    }  # fmt: skip
    return by_ending.get(suffix, vendors.read)


def _holds_a_data_item(path: pathlib.Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"data.npy", "metadata.json"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


# --- which image ------------------------------------------------------------------------------------------------------


def pick(signals: Sequence[Signal], dataset: str | None, name: str) -> Signal:
    """Return the one image, or the one that is named; a name goes before a number.

    Raises
    ------
    StemAeError
        If there is none, there are several and none is named, or the named one is missing or not an image.
    """
    images = [signal for signal in signals if signal.is_image]
    if dataset is not None and (signal := _named(signals, images, dataset, name)) is not None:
        return signal
    if not images:
        raise StemAeError(f"{name} holds {_what_else(signals)}.")
    listing = _listed([f"{k}: {signal.in_words}" for k, signal in enumerate(images)])
    if dataset is not None:
        raise StemAeError(f"{name} has no image {dataset!r}; it holds {listing}.")
    if len(images) > 1:
        raise StemAeError(f"{name} holds {len(images)} images, pick one with --dataset: {listing}.")
    return images[0]


def _named(signals: Sequence[Signal], images: Sequence[Signal], dataset: str, name: str) -> Signal | None:
    called = [signal for signal in signals if signal.title == dataset]
    found = [signal for signal in called if signal.is_image]
    if len(found) > 1:
        numbers = ", ".join(str(k) for k, signal in enumerate(images) if signal in found)
        raise StemAeError(f"{name} holds {len(found)} images called {dataset!r}: pick one by its number ({numbers}).")
    if called and not found:
        raise StemAeError(f"{dataset} in {name} is no image: {called[0].objection}.")
    if found:
        return found[0]
    number = int(dataset) if dataset.isascii() and dataset.isdigit() and len(dataset) < 9 else -1
    return images[number] if 0 <= number < len(images) else None


def _what_else(signals: Sequence[Signal]) -> str:
    """Say what a file holds that has no images."""
    if not signals:
        return "no image, only nothing"
    if len(signals) == 1:
        objection = signals[0].objection
        return f"no image, {objection}" if objection.startswith("only") else objection
    return "no image: " + _listed([f"{signal.title} ({signal.objection})" for signal in signals])


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _LONGEST_LIST
    return "; ".join(words[:_LONGEST_LIST]) + (f"; and {more} more" if more > 0 else "")
