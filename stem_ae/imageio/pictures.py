"""TIFF, and the pictures of everyday life: PNG, JPEG, BMP and the like."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.imageio import swift, vendors
from stem_ae.imageio.signal import Axis, Index, Role, Signal, Take, check_size, grey

_GREY_MODES = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_COLOURS = (3, 4)
_WHITE_IS_ZERO, _PALETTE = 0, 3  # photometric interpretations of TIFF
_NO_DATA = 42113  # the tag of GDAL's, a text
_MOST_CHANNELS = 64
_SWIFT = "nion.1"  # what Nion Swift writes into ImageJ's description


def read_picture(path: pathlib.Path) -> list[Signal]:
    """Read what Pillow knows. Such files state the resolution of a print, never a microscope's sampling."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            if image.mode in _GREY_MODES:
                pixels = np.asarray(image)
            elif image.mode in ("LA", "La"):
                pixels = np.asarray(image)[..., 0]
            else:
                pixels = grey(np.asarray(image.convert("RGB")))
    return [Signal.of_array(path.stem, pixels, [Axis(role="image")] * 2)]


def read_tiff(path: pathlib.Path) -> list[Signal]:
    """Read a TIFF: each series of its pages, each channel of a series apart."""
    import tifffile

    file = tifffile.TiffFile(path, _multifile=False)  # OME may name other files
    if not len(file.pages):
        raise StemAeError(f"{path.name} holds no image: it has no pages.")
    stated = _stated(path, file)
    return [
        signal for number, series in enumerate(file.series) for signal in _series(path, file, series, number, stated)
    ]


# --- the arrays of a TIFF ---------------------------------------------------------------------------------------------


def _series(
    path: pathlib.Path, file: Any, series: Any, number: int, stated: Mapping[int, _Stated]
) -> list[Signal]:
    title = path.stem if len(file.series) == 1 else str(series.name or number)
    letters, page = list(series.axes), series.keyframe
    for k, letter in enumerate(letters):
        if letter == "S" and series.shape[k] not in _COLOURS and not page.extrasamples:
            letters[k] = "C"  # detectors, not colours
    said = stated.get(number, _Stated())
    roles: dict[str, Role] = {"Y": "image", "X": "image", "S": "colour"}
    scales = dict(zip("YX", said.axes, strict=True))
    axes = [
        Axis(scales.get(letter, Axis()).scale, scales.get(letter, Axis()).units, roles.get(letter, ""))
        for letter in letters
    ]
    whole = Signal.of_array(title, _Pages(path, series), axes, kind=said.kind, missing=_no_data(page))
    if "C" not in letters or not (said.channels or "S" in series.axes):
        return [whole]  # what ImageJ calls channels is often a movie: each of its planes is a frame
    channel = letters.index("C")
    names = [*said.channels, *map(str, range(len(said.channels), series.shape[channel]))]
    return [
        Signal(
            f"{title} {names[k]}", _without(whole.shape, channel), whole.dtype, _without(axes, channel),
            _of_channel(whole.take, channel, k), said.kind, whole.missing,
        )
        for k in range(series.shape[channel])
    ]  # fmt: skip


def _without(values: Sequence[Any], place: int) -> tuple[Any, ...]:
    return (*values[:place], *values[place + 1 :])


def _of_channel(take: Take, channel: int, number: int) -> Take:
    return lambda index: take((*index[:channel], number, *index[channel:]))


class _Pages:
    """The array of a series, of which only the pages are read that are wanted."""

    def __init__(self, path: pathlib.Path, series: Any) -> None:
        self._path, self._series = path, series
        self.shape: tuple[int, ...] = tuple(series.shape)
        self.dtype = np.dtype(object if series.dtype is None else series.dtype)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        series, page = self._series, self._series.keyframe
        if series.dataoffset is not None:
            order = page.parent.byteorder
            stored = np.memmap(self._path, self.dtype.newbyteorder(order), "r", series.dataoffset, self.shape)
            return _shown(page, np.asarray(stored[index]))
        ahead = len(self.shape) - len(page.shape)
        pages = self.shape[:ahead]
        check_size(page.shape, self.dtype, self._path.name, self._path)
        if ahead >= 0 and len(series.pages) == np.prod(pages) and all(isinstance(k, int) for k in index[:ahead]):
            number = int(np.ravel_multi_index(index[:ahead], pages)) if ahead else 0  # type: ignore[arg-type]
            return _shown(page, np.asarray(series.pages[number].asarray().reshape(self.shape[ahead:])[index[ahead:]]))
        check_size(self.shape, self.dtype, self._path.name, self._path)
        return _shown(page, np.asarray(series.asarray()[index]))


def _shown(page: Any, values: NDArray[Any]) -> NDArray[Any]:
    """Return what a viewer shows as grey: white where 0 is white, the colours of a palette."""
    if page.photometric == _WHITE_IS_ZERO and values.dtype.kind == "u":
        return np.asarray(np.iinfo(values.dtype).max - values)
    if page.photometric == _PALETTE and page.colormap is not None:
        return np.asarray(page.colormap.mean(axis=0)[values])
    return values


def _no_data(page: Any) -> float | None:
    tag = page.tags.get(_NO_DATA)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


# --- what a TIFF says of its pixels -----------------------------------------------------------------------------------


class _Stated:
    """What a TIFF says of one of its series: its axes y and x, its channels, and what it is if it is no image."""

    def __init__(
        self, axes: Sequence[Axis] = (Axis(), Axis()), channels: Sequence[str] = (), kind: str = ""
    ) -> None:
        self.axes, self.channels, self.kind = tuple(axes), tuple(channels), kind


def _stated(path: pathlib.Path, file: Any) -> dict[int, _Stated]:
    """Return what a TIFF says of its series, by their numbers."""
    with contextlib.suppress(Exception):  # whatever a description stumbles over, the pixels are there
        described = file.imagej_metadata or {}
        if file.is_ome:
            return _from_ome(file.ome_metadata)
        if _SWIFT in described:
            return {0: _from_swift(described[_SWIFT], path, file)}
        if described.get("unit"):
            return dict.fromkeys(range(len(file.series)), _from_imagej(file, described))
        return {
            number: _Stated([signal.axes[k] for k in signal.image_axes], kind=signal.kind)
            for number, signal in enumerate(vendors.read_with("rsciio.tiff", path))
            if signal.axes and signal.image_axes is not None
        }
    return {}


def _from_ome(text: str) -> dict[int, _Stated]:
    """Return sizes of pixels and names of channels; without a unit they are in µm."""
    root = ElementTree.fromstring(text)
    result = {}
    for number, pixels in enumerate(element for element in root.iter() if element.tag.endswith("}Pixels")):
        axes = [
            Axis(pixels.get(f"PhysicalSize{letter}"), pixels.get(f"PhysicalSize{letter}Unit", "µm")) for letter in "YX"
        ]
        channels = [str(c.get("Name") or k) for k, c in enumerate(e for e in pixels if e.tag.endswith("}Channel"))]
        channels += [str(k) for k in range(len(channels), min(int(pixels.get("SizeC", "1")), _MOST_CHANNELS))]
        result[number] = _Stated(axes, channels)
    return result


def _from_imagej(file: Any, described: Mapping[str, Any]) -> _Stated:
    tags = file.pages.first.tags
    sizes = []
    for name in ("YResolution", "XResolution"):
        pixels, lengths = tags[name].value if name in tags else (0, 0)
        sizes.append(lengths / pixels if pixels else None)
    units = [str(described.get(name) or described["unit"]) for name in ("yunit", "unit")]
    return _Stated([Axis(size, unit) for size, unit in zip(sizes, units, strict=True)])


def _from_swift(text: Any, path: pathlib.Path, file: Any) -> _Stated:
    properties = swift.parsed(text if isinstance(text, str) else str(text), path.name)
    shape = tuple(n for n in file.series[0].shape if n not in _COLOURS or len(file.series[0].shape) < 3)
    described = swift.signal(path.stem, shape, np.dtype(float), lambda index: np.zeros(0), properties)
    axes = described.axes[-2:] if len(described.axes) >= 2 else (Axis(), Axis())
    return _Stated(axes, kind=described.kind)
