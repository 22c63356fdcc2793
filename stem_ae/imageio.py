"""Reading microscope images: the frames, the sampling and where the sampling came from.

RosettaSciIO reads the vendors' formats. Nion Swift's own exports (``.npy`` with a ``.json`` beside it, ``.ndata1``,
``.h5``) and plain HDF5 files, where the dataset has to be picked, are read here.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import as_sampling
from stem_ae.errors import StemAeError

ANGSTROM: dict[str, float] = {
    "m": 1e10, "mm": 1e7, "\u00b5m": 1e4, "\u03bcm": 1e4, "um": 1e4, "micron": 1e4, "nm": 10.0, "nanometer": 10.0,
    "\u00c5": 1.0, "\u212b": 1.0, "A": 1.0, "angstrom": 1.0, "Angstrom": 1.0, "pm": 0.01,
}  # fmt: skip
"""Å in one unit of length, under the names that files use (both code points of µ and of Å)."""


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


@dataclasses.dataclass(frozen=True)
class Signal:
    """One array of a file as a reader finds it.

    Parameters
    ----------
    title : str
        Its name in the file.
    data : array
        The numbers.
    sampling : (float, float) or None
        Å per pixel of the last two axes, ``(y, x)``.
    images : bool
        Whether the last two axes, and only they, are those of an image (not spectra, not diffraction patterns).
    """

    title: str
    data: NDArray[Any]
    sampling: tuple[float, float] | None
    images: bool = True

    @property
    def is_image(self) -> bool:
        """Whether it is one image or a plain series of images."""
        shape = self.data.shape
        return self.images and len(shape) in (2, 3) and min(shape[-2:]) >= 8 and self.data.dtype.kind in "uifb"


def read(
    path: str | pathlib.Path, *, dataset: str | None = None, sampling: float | Sequence[float] | None = None
) -> ImageStack:
    """Read an image or a series of images.

    Parameters
    ----------
    path : path
        A file that RosettaSciIO reads (``.dm3``, ``.dm4``, ``.tif``, ``.hspy``, ``.zspy``, ``.emd``, ``.png``, ...),
        an ``.npy`` (its ``.json`` beside it is used), an HDF5 file, or Swift's ``.ndata1`` or ``.h5``.
    dataset : str, optional
        Which image, by its name or its number from 0, where the file holds several.
    sampling : float or (float, float), optional
        Å per pixel, one number or ``(y, x)``; wins over what the file says.

    Raises
    ------
    StemAeError
        If the file cannot be read, or does not hold exactly one image and none was named.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise StemAeError(f"There is no file {path}.")
    signal = pick(find_signals(path), dataset, path.name)
    frames = np.asarray(signal.data, dtype=float).reshape(-1, *signal.data.shape[-2:])
    if sampling is not None:
        return ImageStack(frames, as_sampling(sampling), "given by the user", path.stem)
    if signal.sampling is not None:
        return ImageStack(frames, as_sampling(signal.sampling), f"stated in {path.name}", path.stem)
    return ImageStack(frames, None, f"not stated in {path.name}", path.stem)


def find_signals(path: pathlib.Path) -> list[Signal]:
    """Return everything that the file holds, images or not.

    Raises
    ------
    StemAeError
        If no reader understands the file.
    """
    suffix = path.suffix.lower().lstrip(".")
    readers: dict[str, Callable[[pathlib.Path], list[Signal]]] = {
        "npy": _read_npy, "ndata": _read_ndata, "ndata1": _read_ndata, "h5": _read_hdf5, "hdf5": _read_hdf5,
        "tif": _read_tiff, "tiff": _read_tiff,
    }  # fmt: skip
    try:
        return readers.get(suffix, _read_rosettasciio)(path)
    except StemAeError:
        raise
    except Exception as error:  # each reader has its own ways to meet a broken file
        raise StemAeError(f"Cannot read {path.name}: {error or type(error).__name__}") from error


def pick(signals: Sequence[Signal], dataset: str | None, name: str) -> Signal:
    """Return the one image, or the one that is named.

    Raises
    ------
    StemAeError
        If there is none, there are several and none is named, or the named one is not there or no image.
    """
    images = [signal for signal in signals if signal.is_image]
    listing = "; ".join(f"{k}: {s.title} {'x'.join(map(str, s.data.shape))}" for k, s in enumerate(images))
    if not images:
        shapes = ", ".join(f"{s.title} {s.data.shape}" for s in signals) or "nothing"
        raise StemAeError(f"{name} holds no image, only {shapes}.")
    if dataset is None:
        if len(images) > 1:
            raise StemAeError(f"{name} holds {len(images)} images, pick one with --dataset: {listing}.")
        return images[0]
    for number, signal in enumerate(images):
        if dataset in (signal.title, str(number)):
            return signal
    raise StemAeError(f"{name} has no image {dataset!r}; it holds {listing}.")


def to_angstrom(scale: float | None, units: str | None) -> float | None:
    """Return a pixel size in Å, or ``None`` where the unit is no length (or there is none)."""
    factor = ANGSTROM.get(str(units or "").strip())
    return None if factor is None or scale is None or not scale > 0 else float(scale) * factor


def _pair(y: float | None, x: float | None) -> tuple[float, float] | None:
    return None if y is None or x is None else (y, x)


# --- RosettaSciIO -----------------------------------------------------------------------------------------------------


def _read_rosettasciio(path: pathlib.Path) -> list[Signal]:
    from rsciio import IO_PLUGINS

    suffix = path.suffix.lower().lstrip(".")
    plugins = [plugin for plugin in IO_PLUGINS if suffix in map(str.lower, plugin["file_extensions"])]
    if not plugins:
        raise StemAeError(f"No reader knows files that end in {path.suffix!r} ({path.name}).")
    return _read_with(plugins[0]["api"], path)


def _read_with(reader: str, path: pathlib.Path) -> list[Signal]:
    entries = importlib.import_module(reader).file_reader(str(path))
    return [_from_rosettasciio(entry, path.stem) for entry in entries]


def _from_rosettasciio(entry: Mapping[str, Any], fallback_title: str) -> Signal:
    data = np.asarray(entry["data"])
    if data.dtype.names:  # colour channels
        data = np.mean([data[channel] for channel in "RGB"], axis=0)
    title = entry["metadata"].get("General", {}).get("title") or fallback_title
    axes = entry["axes"]  # in the array's order
    if [k for k, axis in enumerate(axes) if not axis.get("navigate")] != [data.ndim - 2, data.ndim - 1]:
        return Signal(title, data, None, images=False)
    y, x = (to_angstrom(axis.get("scale"), axis.get("units")) for axis in axes[-2:])
    return Signal(title, data, _pair(y, x))


def _read_tiff(path: pathlib.Path) -> list[Signal]:
    """Read a TIFF; RosettaSciIO understands Digital Micrograph's calibrations, and ImageJ's only in micrometres."""
    import tifffile

    signals = _read_with("rsciio.tiff", path)
    with tifffile.TiffFile(path) as file:
        units = (file.imagej_metadata or {}).get("unit")
        tags = file.pages.first.tags
        resolution = [tags[name].value for name in ("YResolution", "XResolution") if name in tags]
    if len(resolution) < 2 or not all(pixels for pixels, _ in resolution):
        return signals
    y, x = (to_angstrom(lengths / pixels, units) for pixels, lengths in resolution)
    return [dataclasses.replace(signal, sampling=signal.sampling or _pair(y, x)) for signal in signals]


# --- Nion Swift and plain arrays --------------------------------------------------------------------------------------


def _read_npy(path: pathlib.Path) -> list[Signal]:
    data = np.load(path, allow_pickle=False)
    beside = path.with_suffix(".json")
    properties = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    return [Signal(path.stem, data, swift_sampling(properties) or field_of_view(properties, data.shape))]


def _read_ndata(path: pathlib.Path) -> list[Signal]:
    with zipfile.ZipFile(path) as archive:
        data = np.load(io.BytesIO(archive.read("data.npy")), allow_pickle=False)
        properties = json.loads(archive.read("metadata.json"))
    return [Signal(properties.get("title") or path.stem, data, swift_sampling(properties))]


def _read_hdf5(path: pathlib.Path) -> list[Signal]:
    import h5py

    signals: list[Signal] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim >= 2 and node.dtype.kind in "uif":
            properties = json.loads(node.attrs["properties"]) if "properties" in node.attrs else {}
            signals.append(Signal(name, node[()], swift_sampling(properties)))

    with h5py.File(path, "r") as file:
        if file.attrs.get("file_format") == "HyperSpy":
            return _read_with("rsciio.hspy", path)
        file.visititems(visit)
    return signals


def swift_sampling(properties: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the sampling in what Nion Swift writes about a data item, Å per pixel as ``(y, x)``."""
    description = properties.get("data_source", properties)
    calibrations = description.get("spatial_calibrations") or description.get("dimensional_calibrations") or []
    if len(calibrations) < 2:
        return None
    y, x = (to_angstrom(calibration.get("scale", 1.0), calibration.get("units")) for calibration in calibrations[-2:])
    return _pair(y, x)


def field_of_view(properties: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Return the sampling, Å per pixel ``(y, x)``, from a field of view that a ``.json`` states somewhere within."""
    for value in properties.values():
        if isinstance(value, Mapping):
            if "field_of_view_x" in value and len(shape) >= 2:
                units = value.get("field_of_view_units")
                y = to_angstrom(value.get("field_of_view_y", value["field_of_view_x"]) / shape[-2], units)
                return _pair(y, to_angstrom(value["field_of_view_x"] / shape[-1], units))
            if (found := field_of_view(value, shape)) is not None:
                return found
    return None
