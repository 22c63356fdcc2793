"""A calculation is a folder: what is asked, how far it is, what came out.

Every file is written under a temporary name and then renamed, so that it is either whole or not there, whatever dies.
The folder is all that a process, a cluster or a panel needs to know; nothing lives in memory only.

- ``input.json``: task, structure, provenance (never changes)
- ``progress.json``: the newest step; ``history.csv``: every step
- ``checkpoint.npz``: what is needed to go on
- ``trajectory.extxyz``, ``result.json``, ``result.extxyz``: what came out
- ``error.json``: one sentence, when it failed
- ``log.txt``: what the engine printed
- ``lock``: held by the process that is working on it
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError

if TYPE_CHECKING:
    import ase

_PROGRESS_EVERY = 0.25
"""Seconds between writing the progress file, so that cheap steps do not become dear."""

_LEAST_ROOM = 32e6
"""Bytes free below which a disk counts as full: the largest checkpoint is of 12 MB."""


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new one, never half of it, and so that it survives a power cut.

    Raises
    ------
    StemAeError
        If the disk is full or the folder cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise disk_error(error, path.parent) from error


def has_room(folder: pathlib.Path) -> bool:
    """Say whether a calculation can write its next files."""
    return shutil.disk_usage(folder).free >= _LEAST_ROOM


def is_full(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def disk_error(error: OSError, folder: pathlib.Path) -> StemAeError:
    """Return what a user should read when a file could not be written."""
    if is_full(error):
        return StemAeError(f"The disk that holds {folder} is full: free some space and retry; nothing was lost.")
    return StemAeError(
        f"Cannot write to {folder} ({error.strerror or error}): check that the folder exists and is yours."
    )


@dataclasses.dataclass(frozen=True)
class Calculation:
    """One calculation's folder."""

    folder: pathlib.Path

    @classmethod
    def create(
        cls, folder: pathlib.Path, task: Mapping[str, Any], atoms: ase.Atoms | None, provenance: Mapping[str, Any]
    ) -> Calculation:
        """Make the folder with its input.

        Raises
        ------
        StemAeError
            If it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder.parent) from error
        structure = None if atoms is None else _encode(atoms)
        task_text = json.dumps(task, sort_keys=True)
        structure_text = json.dumps(structure, sort_keys=True)
        hashes = {"task": digest(task_text.encode()), "structure": digest(structure_text.encode())}
        content = {"task": dict(task), "structure": structure, "provenance": {**provenance, "hashes": hashes}}
        write_atomically(folder / "input.json", json.dumps(content).encode())
        return cls(folder)

    # --- what is asked --------------------------------------------------------------------------------------------

    @property
    def input(self) -> dict[str, Any]:
        """Task, structure and provenance as written.

        Raises
        ------
        StemAeError
            If this is not the folder of a calculation.
        """
        try:
            content: dict[str, Any] = json.loads((self.folder / "input.json").read_bytes())
        except (OSError, ValueError) as error:
            raise StemAeError(f"{self.folder} does not hold a calculation: its input.json cannot be read.") from error
        return content

    @property
    def structure(self) -> ase.Atoms | None:
        """The structure it starts from, with its arrays and constraints."""
        from ase.io import jsonio

        content = self.input["structure"]
        return None if content is None else jsonio.decode(json.dumps(content))

    # --- how far it is --------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """Return the newest step: ``step``, ``fraction`` (0 to 1), ``energy`` (eV), ``fmax`` (eV/Å), ``seconds``."""
        return self._json("progress.json") or {}

    def history(self) -> NDArray[Any]:
        """Return every step so far as a structured array: step, energy (eV), fmax (eV/Å), temperature (K), seconds."""
        names = ["step", "energy", "fmax", "temperature", "seconds"]
        try:
            lines = (self.folder / "history.csv").read_text().splitlines()
        except OSError:
            lines = []
        rows = [tuple(float(value) for value in line.split(",")) for line in lines if line.count(",") == 4]
        return np.array(rows, dtype=[(name, float) for name in names])

    def error(self) -> str:
        """Return why it failed, in one sentence; empty if it did not."""
        content = self._json("error.json")
        return str(content["error"]) if content else ""

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return (self.folder / "result.json").exists()

    def log(self, lines: int = 50) -> str:
        """Return the end of what the engine printed."""
        try:
            return "\n".join((self.folder / "log.txt").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _json(self, name: str) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return None
        return content

    # --- what came out --------------------------------------------------------------------------------------------

    def write_result(self, summary: Mapping[str, Any], atoms: ase.Atoms | None) -> None:
        """Write structure, then summary: once ``result.json`` is there the calculation is finished."""
        hashes = {}
        if atoms is not None:
            content = _extxyz(atoms)
            write_atomically(self.folder / "result.extxyz", content)
            hashes["structure"] = digest(content)
        provenance = {**self.input["provenance"], "result": hashes}
        write_atomically(
            self.folder / "result.json", json.dumps({**summary, "provenance": provenance}, default=_plain).encode()
        )


class Reporter:
    """Writes a running calculation's progress, history, checkpoints and frames.

    Parameters
    ----------
    calculation : Calculation
        Where to.
    checkpoint_every : float
        Seconds between checkpoints.
    """

    def __init__(self, calculation: Calculation, checkpoint_every: float = 10.0) -> None:
        self.folder = calculation.folder
        self._checkpoint_every = checkpoint_every
        self._last_progress = self._last_checkpoint = -np.inf
        earlier = calculation.progress()
        self._before = float(earlier.get("seconds", 0.0))
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time worked on it so far, earlier attempts included."""
        return self._before + time.monotonic() - self._start

    def step(self, step: int, fraction: float, energy: float, fmax: float, temperature: float = 0.0) -> None:
        """Report one step."""
        with (self.folder / "history.csv").open("a") as stream:
            stream.write(f"{step},{energy:.8f},{fmax:.6g},{temperature:.2f},{self.seconds:.2f}\n")
        now = time.monotonic()
        if now - self._last_progress < _PROGRESS_EVERY and fraction < 1:
            return
        self._last_progress = now
        content = {
            "step": step, "fraction": fraction, "energy": energy, "fmax": fmax, "temperature": temperature,
            "seconds": self.seconds, "seconds_left": self.seconds * (1 - fraction) / fraction if fraction > 0 else None,
        }  # fmt: skip
        write_atomically(self.folder / "progress.json", json.dumps(content).encode())

    def due(self) -> bool:
        """Say whether it is time for a checkpoint."""
        return time.monotonic() - self._last_checkpoint >= self._checkpoint_every

    def checkpoint(self, **arrays: Any) -> None:
        """Keep what is needed to go on from here."""
        stream = io.BytesIO()
        np.savez(stream, **{name: value for name, value in arrays.items() if value is not None})
        write_atomically(self.folder / "checkpoint.npz", stream.getvalue())
        self._last_checkpoint = time.monotonic()

    def restore(self) -> dict[str, NDArray[Any]]:
        """Return the last checkpoint's arrays, none if there is no checkpoint."""
        path = self.folder / "checkpoint.npz"
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as content:
            return dict(content)

    def frames(self, kept: int) -> Iterator[ase.Atoms]:
        """Go through the first frames of the trajectory (after a restart, later ones are done again)."""
        from ase.io import iread

        path = self.folder / "trajectory.extxyz"
        if kept and path.exists():
            yield from iread(path, index=f":{kept}", format="extxyz")

    def rewind(self, frames: int, step: int) -> None:
        """Forget the frames and the history after the checkpoint that a restart goes on from."""
        content = b"".join(_extxyz(atoms) for atoms in self.frames(frames))
        write_atomically(self.folder / "trajectory.extxyz", content)
        path = self.folder / "history.csv"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if frames and int(line.split(",")[0]) <= step]
        write_atomically(path, "".join(kept).encode())

    def frame(self, atoms: ase.Atoms) -> None:
        """Append one frame to the trajectory."""
        try:
            with (self.folder / "trajectory.extxyz").open("ab") as stream:
                stream.write(_extxyz(atoms))
        except OSError as error:
            raise disk_error(error, self.folder) from error


def digest(content: bytes) -> str:
    """Return the SHA-256 that names this content."""
    return hashlib.sha256(content).hexdigest()


def _encode(atoms: ase.Atoms) -> Any:
    """Return a structure as JSON's objects: arrays, cell and constraints, without its calculator."""
    from ase.io import jsonio

    return json.loads(jsonio.encode(atoms.copy()))


def _extxyz(atoms: ase.Atoms) -> bytes:
    from ase.io import write

    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """Turn numpy's numbers and arrays into JSON's."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
