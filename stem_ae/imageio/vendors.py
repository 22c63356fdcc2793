"""Microscopes' own formats, read by RosettaSciIO: which of its readers, and what its axes say."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.imageio.signal import Axis, Role, Signal, Take, check_size, unreadable

_NEVER = {"rsciio.netcdf"}
"""Readers that evaluate what the file says as Python."""

_PREFERRED = ("rsciio.mrc",)
"""Where several readers know a suffix, these come first: they need no further library."""

_CODECS = {"blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "delta", "shuffle", "bitround", "fixedscaleoffset",
           "astype", "packbits", "quantize", "crc32", "adler32", "fletcher32", "vlen-utf8", "vlen-bytes", "vlen-array",
           "msgpack2", "json2", "categorize"}  # fmt: skip
"""What a .zspy file may be packed with: numcodecs also has one that unpickles."""

_NO_IMAGES = {
    "EELS": "a spectrum", "EDS": "a spectrum", "EDS_TEM": "a spectrum", "EDS_SEM": "a spectrum",
    "electron_diffraction": "a diffraction pattern", "virtual_dark_field": "", "CL": "a spectrum",
}  # fmt: skip
"""What a signal type of HyperSpy's says."""


def read(path: pathlib.Path) -> list[Signal]:
    """Return what the first of RosettaSciIO's readers that can read the file finds in it.

    Raises
    ------
    StemAeError
        If none can.
    """
    from rsciio import IO_PLUGINS

    suffix = path.suffix.lower().lstrip(".")
    modules = [plugin["api"] for plugin in IO_PLUGINS if suffix in map(str.lower, plugin["file_extensions"])]
    modules = sorted(set(modules) - _NEVER, key=lambda module: (module not in _PREFERRED, modules.index(module)))
    if not modules:
        raise StemAeError(f"No reader knows files that end in {path.suffix!r} ({path.name}).")
    refusals: list[Exception] = []
    for module in modules:
        try:
            return read_with(module, path)
        except Exception as error:  # readers raise all kinds of errors on a broken file
            refusals.append(error)
    # A reader that lacks its library has not even looked at the file.
    looked = [error for error in refusals if not isinstance(error, ImportError)]
    raise unreadable(path.name, (looked or refusals)[0]) from refusals[0]


def read_with(module: str, path: pathlib.Path, **options: Any) -> list[Signal]:
    """Return what one of RosettaSciIO's readers finds; the numbers stay in the file where it knows how."""
    if module == "rsciio.zspy":
        _refuse_pickles(path)
        options = {"mode": "r"} if path.is_dir() else {}
    if module == "rsciio.mrc":
        options = {"endianness": _byte_order_of_mrc(path)}
    reader = importlib.import_module(module).file_reader
    _bound_maps()
    try:
        entries = reader(str(path), lazy=True, **options)
    except (NotImplementedError, TypeError, AttributeError, ValueError):  # some do not know laziness, or not always
        if path.is_file():
            check_size((path.stat().st_size,), np.dtype(np.uint8), path.name)
        entries = reader(str(path), lazy=False, **options)
    if options.get("endianness") == ">":  # the reader heeds it in the header only
        entries = [{**entry, "data": entry["data"].view(entry["data"].dtype.newbyteorder(">"))} for entry in entries]
    return from_entries(entries, path)


def _bound_maps() -> None:
    """Keep RosettaSciIO from mapping more of a file into memory than it holds.

    It cuts what a header promises into pieces first, and of a nonsense header these are so many that it never ends.
    """
    from rsciio.utils import file

    original = file.memmap_distributed
    if hasattr(original, "is_bounded"):
        bounded = original
    else:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if given.get("shape") is not None and given.get("positions") is None:
                count = int(np.prod([int(n) for n in given["shape"]], dtype=object))
                there = pathlib.Path(given["filename"]).stat().st_size - int(given.get("offset", 0))
                if count < 0 or count * np.dtype(given["dtype"]).itemsize > there:
                    raise ValueError(f"it promises {count} numbers, which do not fit into it")
            return original(*args, **kwargs)

        bounded.is_bounded = True

    for name, module in list(sys.modules.items()):
        if name.startswith("rsciio.") and getattr(module, "memmap_distributed", bounded) is not bounded:
            module.memmap_distributed = bounded  # type: ignore[attr-defined]


def from_entries(entries: Sequence[Mapping[str, Any]], path: pathlib.Path) -> list[Signal]:
    """Return the signals of what RosettaSciIO's readers return."""
    return [_signal(entry, path) for entry in entries if "data" in entry]


def _signal(entry: Mapping[str, Any], path: pathlib.Path) -> Signal:
    data = entry["data"]
    metadata = entry.get("metadata") or {}
    title = (metadata.get("General") or {}).get("title") or path.stem
    kind = _NO_IMAGES.get(str((metadata.get("Signal") or {}).get("signal_type") or ""), "")
    axes = [axis for axis in entry.get("axes") or () if isinstance(axis, Mapping)]
    if len(axes) != data.ndim:
        return Signal(str(title), data.shape, data.dtype, (), _taken(data, path), kind)
    spanning = [k for k, axis in enumerate(axes) if not axis.get("navigate")]
    roles: list[Role] = ["frame" if axis.get("navigate") else "image" for axis in axes]
    if len(spanning) == 1 and data.ndim > 1:
        kind = kind or ("a spectrum image" if data.ndim > 2 else "a line of spectra")
    elif len(spanning) == 0 and data.ndim == 2:  # a map of one number for each place of a scan
        roles = ["image", "image"]
    elif len(spanning) != 2:  # the file does not say
        roles = [""] * data.ndim
    if _mrc_without_scale(entry):
        axes = [{**axis, "units": None} for axis in axes]
    found = [
        Axis(axis.get("scale"), _text(axis.get("units")), role) for axis, role in zip(axes, roles, strict=True)
    ]
    return Signal(str(title), data.shape, data.dtype, found, _taken(data, path), kind)


def _text(units: Any) -> str | None:
    """Return a unit; HyperSpy has an object of its own for none."""
    return units if isinstance(units, str) else None


def _mrc_without_scale(entry: Mapping[str, Any]) -> bool:
    """Return whether an MRC file states no cell size, for which the reader assumes 1 nm per pixel."""
    header = (entry.get("original_metadata") or {}).get("std_header") or {}
    return "MX" in header and not (header.get("MX") and header.get("Xlen"))


def _byte_order_of_mrc(path: pathlib.Path) -> str:
    """Return ``>`` for a big-endian file: read in the right order, the number that says what is stored is small."""
    with path.open("rb") as stream:
        mode = stream.read(16)[12:]
    return ">" if int.from_bytes(mode, "big") < int.from_bytes(mode, "little") else "<"


def _taken(data: Any, path: pathlib.Path) -> Take:
    """Return how numbers are taken from an array of NumPy's or dask's."""

    def take(index: tuple[int | slice, ...]) -> NDArray[Any]:
        part = data[index]
        if hasattr(part, "compute"):
            check_size(max(part.chunksize, part.shape, key=np.prod), part.dtype, path.name, path)
            part = part.compute(scheduler="synchronous")
        return np.asanyarray(part)

    return take


def _refuse_pickles(path: pathlib.Path) -> None:
    """Raise StemAeError if a .zspy folder or archive leads out of itself or is packed with a codec that runs code."""
    import zipfile

    if path.is_dir():
        files = list(path.rglob("*"))
        if any(file.is_symlink() for file in files):
            raise StemAeError(f"{path.name} holds links to other files: copy the files themselves into it.")
        texts = [file.read_bytes() for file in files if file.name in (".zarray", ".zmetadata") and file.is_file()]
    else:
        with zipfile.ZipFile(path) as archive:
            texts = [archive.read(name) for name in archive.namelist() if name.endswith((".zarray", ".zmetadata"))]
    for text in texts:
        for codec in _codecs(json.loads(text)):
            if codec not in _CODECS:
                raise StemAeError(
                    f"{path.name} is compressed with {codec!r}, which could run code from the file: it is not read."
                )


def _codecs(content: Any) -> list[str]:
    """Return the names of all codecs in the description of an array, or of many."""
    if isinstance(content, list):
        return [name for part in content for name in _codecs(part)]
    if not isinstance(content, Mapping):
        return []
    named = [str(content["id"])] if isinstance(content.get("id"), str) else []
    return named + [name for part in content.values() for name in _codecs(part)]
