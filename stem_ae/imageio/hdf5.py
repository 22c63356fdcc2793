"""HDF5: Nion Swift's files, HyperSpy's, Velox', NCEM's and pycroscopy's, and plain ones; recognised by what is in them.

Nothing outside the file is ever read: links to other files and data that are kept in them are left alone.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.imageio import swift, vendors
from stem_ae.imageio.signal import Axis, Signal, check_size

_MOST_OBJECTS = 20_000
"""Most groups and datasets of a file of images."""

_SHARE_TO_BE_EVEN = 1e-3
"""Of the mean step, that the steps of an axis may differ by."""


def read(path: pathlib.Path) -> list[Signal]:
    """Return the arrays of two or more dimensions in a file.

    Raises
    ------
    StemAeError
        If it is not HDF5, or damaged.
    """
    with h5py.File(path, "r") as file:
        special = _special_reader(file)
        elsewhere = _leads_elsewhere(file)
        if special is None:
            here = [(name, dataset) for name, dataset in _datasets(file) if not _is_elsewhere(dataset)]
            signals = [_signal(name, dataset, path) for name, dataset in here]
            if elsewhere and not any(signal.is_image for signal in signals):
                raise StemAeError(f"{path.name} keeps its data in other files, which are not read: join them into one.")
            return signals
    if elsewhere:
        raise StemAeError(f"{path.name} has links to other files, which are not followed: join the data into one.")
    return special(path)


# --- which kind of file -----------------------------------------------------------------------------------------------


def _special_reader(file: h5py.File) -> Callable[[pathlib.Path], list[Signal]] | None:
    """Return the reader for a kind of file that says more of its arrays than HDF5 does."""
    if _text(file.attrs, "file_format") == "HyperSpy":
        return lambda path: vendors.read_with("rsciio.hspy", path)
    if _is_velox(file):
        return _read_velox
    if any(group.attrs.get("emd_group_type") is not None for group in _groups(file)):
        return lambda path: vendors.read_with("rsciio.emd", path, stack_group=False)
    if any(_text(group.attrs, "NX_class") == "NXdata" for group in _groups(file)):
        return lambda path: vendors.read_with("rsciio.nexus", path)
    return None


def _is_velox(file: h5py.File) -> bool:
    version = file.get("Version") if file.get("Version", getlink=True).__class__ is h5py.HardLink else None
    if not isinstance(version, h5py.Dataset) or version.shape != (1,) or "Data" not in file:
        return False
    try:
        return json.loads(version[0]).get("format") in ("Velox", "DevelopersKit")
    except (ValueError, AttributeError, TypeError):
        return False


def _read_velox(path: pathlib.Path) -> list[Signal]:
    """Read the images of a Velox file; RosettaSciIO also reads all spectra, for which it wants a further library."""
    from rsciio.emd._emd_velox import FeiEMDReader

    class Images(FeiEMDReader):  # type: ignore[misc]
        def _check_im_type(self) -> None:
            self.im_type = "Image"

    file = h5py.File(path, "r")
    images = [node for name, node in _datasets(file) if name.startswith("Data/Image/") and node.ndim == 3]
    lazy = all(node.chunks is not None for node in images)  # dask wants chunks
    if not lazy:
        check_size([sum(node.nbytes for node in images)], np.dtype(np.uint8), path.name, path)
    reader = Images(lazy=lazy)
    reader.read_file(file)
    return vendors.from_entries(reader.dictionaries, path)


# --- what is in a file ------------------------------------------------------------------------------------------------


def _objects(file: h5py.File) -> Iterator[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def visit(name: str, node: Any) -> bool | None:
        found.append((name, node))
        return True if len(found) > _MOST_OBJECTS else None

    file.visititems(visit)  # does not follow links
    return iter(found)


def _groups(file: h5py.File) -> list[h5py.Group]:
    return [file, *(node for _, node in _objects(file) if isinstance(node, h5py.Group))]


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Go through the arrays of numbers of two or more dimensions."""
    for name, node in _objects(file):
        if isinstance(node, h5py.Dataset) and node.shape is not None and node.ndim >= 2 and node.dtype.kind in "uifbc":
            yield name, node


def _is_elsewhere(dataset: h5py.Dataset) -> bool:
    return bool(dataset.external) or dataset.is_virtual


def _leads_elsewhere(file: h5py.File) -> bool:
    """Say whether a file has links to others, or keeps numbers in them."""
    links = any(
        isinstance(group.get(name, getlink=True), h5py.ExternalLink) for group in _groups(file) for name in group
    )
    return links or any(_is_elsewhere(node) for _, node in _objects(file) if isinstance(node, h5py.Dataset))


def _text(attributes: Any, name: str) -> str | None:
    """Return an attribute that is a text; None if it is not there, or something else."""
    try:
        value = attributes.get(name)
    except (OSError, TypeError, ValueError):  # of a type that h5py does not know
        return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return str(value) if isinstance(value, str) else None


# --- plain arrays -----------------------------------------------------------------------------------------------------


def _signal(name: str, dataset: h5py.Dataset, path: pathlib.Path) -> Signal:
    take = _taken(dataset, path)
    properties = _text(dataset.attrs, "properties")
    if properties is not None:
        described = swift.parsed(properties, f"{path.name}, {name}")
        title = str(described.get("title") or name)
        return swift.signal(title, dataset.shape, dataset.dtype, take, described)
    if "Position_Indices" in dataset.attrs and "Spectroscopic_Indices" in dataset.attrs:
        return _universal(name, dataset, path)
    return Signal(
        name, dataset.shape, dataset.dtype, _axes(dataset), take, _NSID_KINDS.get(_data_type(dataset), ""),
        _fill_value(dataset),
    )  # fmt: skip


def _taken(dataset: h5py.Dataset, path: pathlib.Path) -> Callable[[tuple[int | slice, ...]], NDArray[Any]]:
    """Return how numbers are taken from a dataset; the file is open only while they are."""
    name = dataset.name

    def take(index: tuple[int | slice, ...]) -> NDArray[Any]:
        with h5py.File(path, "r") as file:
            found = file[name]
            if found.chunks is not None:  # a chunk is unpacked whole, whatever part of it is wanted
                check_size(found.chunks, found.dtype, path.name, path)
            return np.asarray(found[index])

    return take


def _fill_value(dataset: h5py.Dataset) -> float | None:
    """Return what stands for missing numbers, by the conventions of netCDF."""
    for name in ("_FillValue", "missing_value"):
        value = np.asarray(dataset.attrs.get(name, ()))
        if value.size == 1 and value.dtype.kind in "uif":
            return float(value.reshape(-1)[0])
    return None


def _axes(dataset: h5py.Dataset) -> list[Axis]:
    """Return what HDF5's dimension scales say of the axes."""
    found = []
    for dimension in dataset.dims:
        try:
            scale = dimension[0] if len(dimension) else None
            role = _NSID_ROLES.get(_text(scale.attrs, "dimension_type") or "", "") if scale is not None else ""
            units = _text(scale.attrs, "units") if scale is not None else None
            found.append(Axis(None if scale is None else _step(scale), units, role))  # type: ignore[arg-type]
        except (RuntimeError, KeyError, OSError):  # a scale that is not there any more
            found.append(Axis())
    return found


def _step(values: h5py.Dataset) -> float | None:
    """Return the step of evenly spaced numbers."""
    if values.ndim != 1 or not 2 <= values.shape[0] <= 1 << 20 or values.dtype.kind not in "uif":
        return None
    steps = np.diff(np.asarray(values[()], dtype=float))
    mean = float(steps.mean())
    even = bool(np.all(np.abs(steps - mean) <= _SHARE_TO_BE_EVEN * abs(mean)))
    return mean if even else None


# --- pycroscopy -------------------------------------------------------------------------------------------------------

_NSID_ROLES = {"SPATIAL": "image", "TEMPORAL": "frame", "FRAME": "frame"}
_NSID_KINDS = {"SPECTRUM": "a spectrum", "LINE_PLOT": "a line plot", "SPECTRAL_IMAGE": "a spectrum image",
               "IMAGE_4D": "a scan of patterns", "POINT_CLOUD": "a list of points"}  # fmt: skip


def _data_type(dataset: h5py.Dataset) -> str:
    return (_text(dataset.attrs, "data_type") or "").rpartition(".")[2].upper()


def _universal(name: str, dataset: h5py.Dataset, path: pathlib.Path) -> Signal:
    """Return a main dataset of USID: positions by spectra, with what each of them stands for beside it."""
    places, spectra = dataset.shape if dataset.ndim == 2 else (0, 0)
    file = dataset.file
    try:
        axes = _universal_axes(file, dataset)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise StemAeError(f"{path.name} does not say where the numbers of {name} belong ({error}).") from error
    shape, dataset_type = tuple(length for length, _ in axes), dataset.dtype
    if spectra != 1 or len(axes) < 2 or int(np.prod(shape)) != places:
        return Signal(name, dataset.shape, dataset.dtype, (), _taken(dataset, path), "a table of spectra")

    inner = _taken(dataset, path)

    def take(index: tuple[int | slice, ...]) -> NDArray[Any]:
        check_size((places,), dataset_type, path.name, path)
        return inner((slice(None), 0)).reshape(shape)[index]

    return Signal(name, shape, dataset_type, [axis for _, axis in axes], take)


def _universal_axes(file: h5py.File, dataset: h5py.Dataset) -> list[tuple[int, Axis]]:
    """Return length and axis of each dimension of the positions, the slowest first."""
    indices = file[dataset.attrs["Position_Indices"]]
    values = file[dataset.attrs["Position_Values"]]
    check_size(indices.shape, indices.dtype, dataset.name)
    counted = np.asarray(indices[()])
    numbers = np.asarray(values[()], dtype=float)
    if counted.shape != numbers.shape or counted.ndim != 2:
        raise ValueError("its positions are no table")
    units = [_decoded(unit) for unit in np.atleast_1d(values.attrs["units"])]
    axes = []
    for column in range(counted.shape[1]):
        places = np.unique(numbers[:, column])
        scale = float(np.diff(places).mean()) if len(places) > 1 else None
        changes = int(np.count_nonzero(np.diff(counted[:, column])))
        axes.append((changes, len(np.unique(counted[:, column])), Axis(scale, units[column])))
    return [(length, axis) for _, length, axis in sorted(axes, key=lambda entry: entry[0])]


def _decoded(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


