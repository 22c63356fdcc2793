"""Nion Swift's exports: ``.npy`` with a ``.json`` beside it, ``.ndata`` and ``.ndata1``; what it says of data items."""

from __future__ import annotations

import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from stem_ae.errors import StemAeError
from stem_ae.imageio.signal import Axis, Role, Signal, Take, check_size
from stem_ae.imageio.units import to_angstrom

_LONGEST_DESCRIPTION = 64 << 20
"""Bytes of JSON beside an image."""


def read_npy(path: pathlib.Path) -> list[Signal]:
    """Read an array of NumPy's, and the ``.json`` beside it if there is one."""
    data = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(data, np.ndarray):
        raise StemAeError(f"{path.name} is an archive of arrays, not one array: save the image alone.")
    beside = path.with_suffix(".json")
    properties: Mapping[str, Any] = {}
    if beside.is_file():
        if beside.stat().st_size > _LONGEST_DESCRIPTION:
            raise StemAeError(f"{beside.name}, beside the image, is too long to describe it: move it away.")
        properties = parsed(beside.read_bytes(), beside.name)
    return [_described(path.stem, data, properties)]


def read_ndata(path: pathlib.Path) -> list[Signal]:
    """Read ``.ndata1``, which Swift exports, and ``.ndata``, which it keeps in projects."""
    with zipfile.ZipFile(path) as archive:
        for name in ("data.npy", "metadata.json"):
            check_size((archive.getinfo(name).file_size,), np.dtype(np.uint8), path.name, path)
        properties = parsed(archive.read("metadata.json"), f"{path.name}, metadata.json")
        with archive.open("data.npy") as stream:
            data = np.lib.format.read_array(stream, allow_pickle=False)
    return [_described(str(properties.get("title") or path.stem), data, properties)]


def parsed(text: str | bytes, name: str) -> dict[str, Any]:
    """Return what JSON says of a data item.

    Raises
    ------
    StemAeError
        If it says nothing of the kind.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StemAeError(f"{name} does not describe an image: it is no JSON ({str(error)[:100]}).") from error
    if not isinstance(content, dict):
        raise StemAeError(f"{name} does not describe an image: it holds no names with values.")
    return content


def _described(title: str, data: Any, properties: Mapping[str, Any]) -> Signal:
    if not properties:
        return Signal.of_array(title, data)
    return signal(title, data.shape, data.dtype, lambda index: np.asarray(data[index]), properties)


def signal(
    title: str, shape: tuple[int, ...], dtype: np.dtype[Any], take: Take, properties: Mapping[str, Any]
) -> Signal:
    """Return the signal of a data item, from what Swift says about it."""
    source = properties.get("data_source")
    described: Mapping[str, Any] = source if isinstance(source, Mapping) else properties
    coloured = dtype == np.uint8 and len(shape) >= 3 and shape[-1] in (3, 4)
    both = {**properties, **described}
    counts = [_count(both, name) for name in ("collection_dimension_count", "datum_dimension_count")]
    if coloured and sum(c or 0 for c in counts) == len(shape):
        coloured = False
    dimensions = len(shape) - coloured
    axes = _calibrated(described, dimensions)
    if axes is None:
        axes = _from_field_of_view(properties, shape, dimensions)
    kind, roles = _roles(bool(both.get("is_sequence", False)), dimensions, counts)
    found = [Axis(axis.scale, axis.units, role) for axis, role in zip(axes, roles, strict=True)]
    return Signal(title, shape, dtype, [*found, *([Axis(role="colour")] if coloured else [])], take, kind)


def _roles(sequence: bool, dimensions: int, counts: list[int | None]) -> tuple[str, list[Role]]:
    """Return what a data item is if it is no image, and what its axes are for: sequence, collection, datum."""
    collection, datum = counts
    unknown: list[Role] = [""] * dimensions
    if datum is None:
        return "", unknown
    collection = collection or 0
    if sequence + collection + datum != dimensions:
        return "", unknown
    if datum == 1:
        return {0: "a spectrum", 1: "a line of spectra"}.get(collection + sequence, "a spectrum image"), unknown
    if (collection, datum) == (2, 2):
        return "a scan of patterns", unknown
    if (collection, datum) in ((0, 2), (2, 0), (1, 2)):
        images: list[Role] = ["image", "image"]
        return "", [*(["frame"] * (dimensions - 2)), *images]  # type: ignore[list-item]
    return "", unknown


def _count(described: Mapping[str, Any], name: str) -> int | None:
    value = described.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 4 else None


def _calibrated(described: Mapping[str, Any], dimensions: int) -> list[Axis] | None:
    """Return the calibrated axes; one that says nothing where there is no calibration for it."""
    entries = described.get("spatial_calibrations") or described.get("dimensional_calibrations")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        return None
    axes = [Axis(entry.get("scale", 1.0), str(entry.get("units") or "")) for entry in entries][-dimensions:]
    return [Axis()] * (dimensions - len(axes)) + axes if axes else None


def _from_field_of_view(properties: Mapping[str, Any], shape: tuple[int, ...], dimensions: int) -> list[Axis]:
    view = field_of_view(properties)
    if view is None or dimensions < 2:
        return [Axis()] * dimensions
    height, width, units = view
    rows, columns = shape[dimensions - 2 : dimensions]
    if not rows or not columns:
        return [Axis()] * dimensions
    return [Axis()] * (dimensions - 2) + [Axis(height / rows, units), Axis(width / columns, units)]


def field_of_view(properties: Mapping[str, Any], depth: int = 0) -> tuple[float, float, str] | None:
    """Return a field of view that a ``.json`` states somewhere within: height, width, and their unit."""
    for value in properties.values():
        if not isinstance(value, Mapping) or depth > 20:
            continue
        if "field_of_view_x" in value:
            width, units = value["field_of_view_x"], str(value.get("field_of_view_units") or "")
            height = value.get("field_of_view_y", width)
            if to_angstrom(width, units) and to_angstrom(height, units):
                return float(height), float(width), units
        if (found := field_of_view(value, depth + 1)) is not None:
            return found
    return None
