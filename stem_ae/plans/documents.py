"""The documents of a run on the disk, written as they come, and everything that can be done with them afterwards.

A run is a folder: ``documents.jsonl`` with one bluesky document a line, ``[name, document]``, and one ``.bin`` file per
array, to which each event's values are appended first; its document then says ``{"array": file, "offset": bytes,
"shape": ..., "dtype": ...}``. Whatever kills the program, all events before that are whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.files import existing_file
from stem_ae.in_place import check_in_place

NAME = "documents.jsonl"
_SYNC_S = 1.0  # a power failure costs so many seconds at most


class DocumentWriter:
    """Writes every document that it is called with.

    Parameters
    ----------
    folder : path
        Made if it is not there.

    Raises
    ------
    StemAeError
        If the folder cannot be written to, then or later, or is not there any more.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._synced = time.monotonic()
        self._has_failed = False
        self._attempt(lambda: folder.mkdir(parents=True, exist_ok=True))
        self._attempt(lambda: self._file(NAME))

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Write one document."""
        self._attempt(lambda: self._write(name, document))

    def close(self) -> None:
        """Write out what the system still holds, as far as the disk takes it."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):
                file.close()
        self._files.clear()

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            if self._has_failed:  # it was said; what follows, such as the end of the run, is written if it can be
                return
            self._has_failed = True
            if isinstance(error, FileNotFoundError):
                raise StemAeError(
                    f"The run's folder {self.folder}, or a file in it, was deleted, moved or replaced: the run ends "
                    "here, since nothing more can be kept."
                ) from error
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if is_full else (error.strerror or str(error))
            raise StemAeError(
                f"The measurements cannot be written to {self.folder} ({why}): make room or choose another folder. "
                "What was measured until now is kept there."
            ) from error

    def _write(self, name: str, document: dict[str, Any]) -> None:
        for open_name, file in self._files.items():
            check_in_place(file, self.folder / open_name)
        kept = dict(document)
        if name == "event":
            kept["data"] = {key: self._store(key, value) for key, value in document["data"].items()}
        self._file(NAME).write(json.dumps([name, kept], default=_plain).encode() + b"\n")
        self._file(NAME).flush()
        if time.monotonic() - self._synced > _SYNC_S or name == "stop":
            self._synced = time.monotonic()
            for file in self._files.values():
                os.fsync(file.fileno())

    def _store(self, key: str, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None  # JSON knows no other word for it
        if not isinstance(value, np.ndarray):
            return value
        name = re.sub(r"\W", "_", key) + ".bin"
        file = self._file(name)
        offset = os.fstat(file.fileno()).st_size
        file.write(np.ascontiguousarray(value).tobytes())
        file.flush()
        return {"array": name, "offset": offset, "shape": list(value.shape), "dtype": value.dtype.str}

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            self._files[name] = open(self.folder / name, "ab")  # noqa: SIM115  (open until the run ends)
        return self._files[name]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written")


class Run:
    """A run that was written: its documents, its arrays.

    Parameters
    ----------
    folder : path
        As :class:`DocumentWriter` made it.

    Raises
    ------
    StemAeError
        If there is no run.
    """

    def __init__(self, folder: pathlib.Path | str) -> None:
        self.folder = pathlib.Path(folder)
        try:
            lines = (self.folder / NAME).read_bytes().split(b"\n")
        except OSError as error:
            raise StemAeError(f"There is no run in {self.folder}: choose the folder that holds {NAME}.") from error
        self.documents: list[tuple[str, dict[str, Any]]] = []
        for line in lines[:-1]:  # the last one is empty, or was being written when the program ended
            try:
                name, document = json.loads(line)
            except ValueError as error:
                raise StemAeError(f"{self.folder / NAME} is damaged in line {len(self.documents) + 1}.") from error
            self.documents.append((name, document))
        if not self.documents or self.documents[0][0] != "start":
            raise StemAeError(f"{self.folder / NAME} does not begin with the start of a run.")

    @property
    def start(self) -> dict[str, Any]:
        """The start document: what was to be done, with what."""
        return self.documents[0][1]

    @property
    def stop(self) -> dict[str, Any] | None:
        """The stop document: how it ended. None: the program was killed in mid-run."""
        return next((document for name, document in self.documents if name == "stop"), None)

    @property
    def streams(self) -> list[str]:
        """Names of the streams."""
        return list(dict.fromkeys(document["name"] for name, document in self.documents if name == "descriptor"))

    def descriptor(self, stream: str) -> dict[str, Any]:
        """Return what a stream's values are.

        Raises
        ------
        StemAeError
            If there is no such stream.
        """
        for name, document in self.documents:
            if name == "descriptor" and document["name"] == stream:
                return document
        raise StemAeError(f"The run has no stream {stream!r}, only {', '.join(self.streams) or 'none'}.")

    def events(self, stream: str = "primary") -> list[dict[str, Any]]:
        """Return the data of each event, arrays as they are."""
        uids = {d["uid"] for name, d in self.documents if name == "descriptor" and d["name"] == stream}
        return [
            {key: self._load(value) for key, value in document["data"].items()}
            for name, document in self.documents
            if name == "event" and document["descriptor"] in uids
        ]

    def column(self, key: str, stream: str = "primary") -> NDArray[Any]:
        """Return one value of all events, ``(n, ...)``."""
        return np.array([event[key] for event in self.events(stream)])

    def _load(self, value: Any) -> Any:
        if value is None:
            return math.nan
        if not (isinstance(value, dict) and "array" in value):
            return value
        name = str(value["array"])
        if not re.fullmatch(r"\w+\.bin", name) or (self.folder / name).is_symlink():
            raise StemAeError(f"{self.folder / NAME} names {name[:60]!r} as one of its arrays, which lies elsewhere.")
        try:
            shape, dtype = tuple(int(n) for n in value["shape"]), np.dtype(value["dtype"])
            count, offset = math.prod(shape), int(value["offset"])
            if min((count, offset, *shape)) < 0 or dtype.hasobject:
                raise ValueError("its shape or type is not possible")
            size = existing_file(self.folder / name).stat().st_size
            if offset + count * dtype.itemsize > size:
                raise ValueError("it is cut short")
            return np.fromfile(self.folder / name, dtype, count, offset=offset).reshape(shape)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise StemAeError(f"{self.folder / name} does not hold what the run says of it ({error}).") from error

    def replay(self, receive: Callable[[str, dict[str, Any]], None]) -> None:
        """Send all documents, in order, as the run did."""
        for name, document in self.documents:
            if name == "event":
                data = {key: self._load(value) for key, value in document["data"].items()}
                receive(name, document | {"data": data})
            else:
                receive(name, document)

    # --- for other programs -----------------------------------------------------------------------------------------

    def export_hdf5(self, path: pathlib.Path) -> pathlib.Path:
        """Write everything as HDF5 in the manner of NeXus: an NXentry with an NXdata per stream, and the documents."""
        import h5py

        with h5py.File(path, "w") as file:
            entry = file.create_group("entry")
            entry.attrs["NX_class"] = "NXentry"
            entry["title"], entry["start"] = str(self.start.get("plan_name", "")), json.dumps(self.start)
            entry["stop"] = json.dumps(self.stop)
            for stream in self.streams:
                group = entry.create_group(stream)
                group.attrs["NX_class"] = "NXdata"
                keys = self.descriptor(stream)["data_keys"]
                for key, described in keys.items():
                    self._write_column(group, key, described, stream)
                group.attrs["signal"] = max(keys, key=lambda key: len(keys[key]["shape"]))
                entry.attrs["default"], file.attrs["default"] = stream, "entry"
        return path

    def _write_column(self, group: Any, key: str, described: dict[str, Any], stream: str) -> None:
        values = [event[key] for event in self.events(stream)]
        if len({np.shape(value) for value in values}) > 1:  # frames of several sizes
            dataset = group.create_group(key)
            for number, value in enumerate(values):
                dataset[str(number)] = value
        elif values and isinstance(values[0], str):
            dataset = group.create_dataset(key, data=[value.encode() for value in values])
        else:
            dataset = group.create_dataset(key, data=np.array(values))
        dataset.attrs["units"] = described.get("units", "")
        for name, value in described.get("calibration", {}).items():
            dataset.attrs[name] = value

    def export_spectra(self, path: pathlib.Path, camera: str = "eels") -> pathlib.Path:
        """Write a camera's spectra (or patterns) for HyperSpy, as ``.hspy`` or ``.zspy``; a raster keeps its shape."""
        from rsciio import hspy, zspy

        data = self.column(camera)
        if not len(data):
            raise StemAeError(f"The run holds nothing of the {camera} camera.")
        calibration = self.descriptor("primary")["data_keys"][camera]["calibration"]
        channels = data.shape[-1 if camera == "eels" else -2 :]
        data = data.reshape(-1, *channels)  # rasters may come in rows
        shape = tuple(self.start.get("settings", {}).get("shape", [len(data)]))
        if int(np.prod(shape)) != len(data):  # a raster that was stopped
            shape = (len(data),)
        signal = data.reshape(*shape, *channels)
        axes = self._navigation_axes(shape)
        for k in range(len(channels)):
            last = {"offset": calibration["offset"], "scale": calibration["scale"], "units": calibration["unit"]}
            name = "Energy loss" if camera == "eels" else ("ky", "kx")[k]
            axes.append({"name": name, "size": channels[k], **last, "navigate": False,
                         "index_in_array": len(shape) + k})  # fmt: skip
        metadata = {
            "General": {"title": self.start.get("plan_name", "run"), "original_filename": str(self.folder.name)},
            "Signal": {"signal_type": "EELS" if camera == "eels" else "electron_diffraction"},
        }
        places = {key: self.column(key).ravel().tolist() for key in ("probe_x", "probe_y")}
        content = {
            "data": signal, "axes": axes, "metadata": metadata, "attributes": {"_lazy": False}, "models": {},
            "tmp_parameters": {}, "learning_results": {},
            "package_info": {"package": "stem_ae", "package_version": self.start.get("stem_ae", "")},
            "original_metadata": {"start": json.dumps(self.start), **places},
        }  # fmt: skip
        (zspy if path.suffix == ".zspy" else hspy).file_writer(str(path), content)
        return path

    def _navigation_axes(self, shape: tuple[int, ...]) -> list[dict[str, Any]]:
        """Return the axes of a raster, in Å of its frame, or of a list of points."""
        names, scales, units = ["point"], [1.0], ""
        if len(shape) == 2:
            frame = self.start["settings"]["frame"]
            sides = np.array(frame["shape"]) * frame["fov"] / max(frame["shape"])
            names, scales, units = ["y", "x"], (sides / shape).tolist(), "Å"
        return [
            {"name": name, "size": n, "offset": 0.5 * scale if units else 0.0, "scale": scale, "units": units,
             "navigate": True, "index_in_array": k}
            for k, (name, n, scale) in enumerate(zip(names, shape, scales, strict=True))
        ]  # fmt: skip
