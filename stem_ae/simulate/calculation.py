"""A calculation is a folder: what is asked, how far it is, what came out.

Every file is written under a temporary name and then renamed, so that it is either whole or not there, whatever dies.
The folder is all that a process, a cluster or a panel needs to know; nothing lives in memory only.

- ``input.json``: task, structure, provenance (never changes), and ``input.copy.json``, should that be damaged
- ``progress.json``: the newest step; ``history.csv``: every step
- ``checkpoint.npz``: what is needed to go on
- ``trajectory.extxyz``, ``result.json``, ``result.extxyz``: what came out
- ``error.json``: one sentence, when it failed
- ``log.txt``: what the engine printed
- ``lock``: held by the process that is working on it; ``process.json``: which one that is; ``alive``: touched by it
- ``set_aside/``: files that were damaged, or of an earlier start

What is read is checked against the digests that were written with it. A damaged file is set aside, never deleted, and
the calculation goes on without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
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

_LARGEST_NOTE = 1_000_000
"""Bytes of a progress or error file above which it is none."""

SET_ASIDE = "set_aside"

OF_A_START = ("checkpoint.npz", "trajectory.extxyz", "history.csv", "progress.json", "error.json", "attempts")
OF_A_RESULT = ("result.json", "result.extxyz")


def write_atomically(path: pathlib.Path, content: bytes, is_synced: bool = True) -> None:
    """Write a file so that readers see the old or the new one, never half of it, and so that it survives a power cut.

    Without ``is_synced`` a power cut may cost it.

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
                if is_synced:
                    os.fsync(stream.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise disk_error(error, path.parent) from error


def sync(path: pathlib.Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_aside(folder: pathlib.Path, names: Iterable[str]) -> pathlib.Path | None:
    """Move files of a folder into a folder of their own within it, and return that one; None if there are none.

    Raises
    ------
    StemAeError
        If they cannot be moved.
    """
    found = [name for name in names if os.path.lexists(folder / name)]
    if not found:
        return None
    try:
        (folder / SET_ASIDE).mkdir(exist_ok=True)
        number = 1 + sum(1 for _ in (folder / SET_ASIDE).iterdir())
        while (place := folder / SET_ASIDE / str(number)).exists():
            number += 1
        place.mkdir()
        for name in found:
            os.replace(folder / name, place / name)
    except OSError as error:
        raise disk_error(error, folder) from error
    return place


def sealed(content: Mapping[str, Any]) -> bytes:
    """Return JSON that carries its own digest."""
    plain = json.loads(json.dumps(content, default=_plain))
    return json.dumps({**plain, "digest": _own_digest(plain)}).encode()


def unsealed(text: bytes) -> dict[str, Any]:
    """Return what :func:`sealed` was given; files without a digest are accepted as they are.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it does not hold an object")
    noted = content.pop("digest", None)
    if noted is not None and noted != _own_digest(content):
        raise ValueError("its content does not match its digest")
    return content


def _own_digest(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


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
    if isinstance(error, FileNotFoundError):
        return StemAeError(f"The folder {folder} is gone: it was deleted or moved.")
    return StemAeError(
        f"Cannot write to {folder} ({error.strerror or error}): check that the folder exists and is yours."
    )


@dataclasses.dataclass(frozen=True)
class Calculation:
    """One calculation's folder."""

    folder: pathlib.Path

    @classmethod
    def create(
        cls, folder: pathlib.Path, task: Mapping[str, Any], atoms: ase.Atoms | None, provenance: Mapping[str, Any],
        job: Mapping[str, Any] | None = None,
    ) -> Calculation:  # fmt: skip
        """Make the folder with its input.

        Parameters
        ----------
        folder : path
        task : mapping
        atoms : ase.Atoms or None
        provenance : mapping
        job : mapping, optional
            What the queue's record says about it, so that a lost record can be made anew.

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
        content: dict[str, Any] = {
            "task": dict(task), "structure": structure, "provenance": {**provenance, "hashes": hashes}
        }  # fmt: skip
        text = sealed(content if job is None else {**content, "job": dict(job)})
        write_atomically(folder / "input.copy.json", text, is_synced=False)
        write_atomically(folder / "input.json", text)
        sync(folder)
        sync(folder.parent)
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
        for name in ("input.json", "input.copy.json"):
            with contextlib.suppress(OSError, ValueError):
                return unsealed(self._bytes(name))
        raise StemAeError(f"{self.folder} does not hold a calculation, or its input.json and its copy are damaged.")

    @property
    def structure(self) -> ase.Atoms | None:
        """The structure it starts from, with its arrays and constraints."""
        from ase.io import jsonio

        content = self.input["structure"]
        return None if content is None else jsonio.decode(json.dumps(content))

    # --- how far it is --------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """Return the newest step: ``step``, ``fraction`` (0 to 1), ``energy`` (eV), ``fmax`` (eV/Å), ``seconds``."""
        content = self._note("progress.json")
        values = {name: content.get(name) for name in ("step", "fraction", "energy", "fmax", "temperature", "seconds")}
        if not all(_is_number(value) for value in values.values()) or not 0 <= content["fraction"] <= 1:
            return {}
        left = content.get("seconds_left")
        return {**values, "seconds_left": left if isinstance(left, float) and math.isfinite(left) else None}

    def history(self) -> NDArray[Any]:
        """Return every step so far as a structured array: step, energy (eV), fmax (eV/Å), temperature (K), seconds."""
        names = ["step", "energy", "fmax", "temperature", "seconds"]
        rows = [row for line in self.history_lines() if (row := _numbers(line))]
        return np.array(rows, dtype=[(name, float) for name in names])

    def history_lines(self) -> list[str]:
        """Return the lines of the history as they are written."""
        try:
            return self._bytes("history.csv").decode(errors="replace").splitlines()
        except OSError:
            return []

    def error(self) -> str:
        """Return why it failed, in one sentence; empty if it did not."""
        return str(self._note("error.json").get("error", ""))

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return (self.folder / "result.json").exists()

    def log(self, lines: int = 50) -> str:
        """Return the end of what the engine printed."""
        try:
            return "\n".join(self._bytes("log.txt").decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _note(self, name: str) -> dict[str, Any]:
        """Return the content of a small file; empty if it is damaged, since it is only for display."""
        try:
            if (self.folder / name).stat().st_size > _LARGEST_NOTE:
                return {}
            content = json.loads(self._bytes(name))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _bytes(self, name: str) -> bytes:
        """Return a file's content; raises OSError if it is anything but a file, such as a pipe that never ends."""
        path = self.folder / name
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return path.read_bytes()

    # --- damage ---------------------------------------------------------------------------------------------------

    def read_result(self) -> dict[str, Any]:
        """Return the result, checked against its digest and those of the files that belong to it.

        Raises
        ------
        OSError
            If there is none.
        ValueError
            If it is damaged; says what.
        """
        content = unsealed(self._bytes("result.json"))
        if not isinstance(content.get("task"), dict):
            raise ValueError("result.json is not a result")
        noted = content.get("provenance", {}).get("result", {}).get("structure")
        try:
            if noted and digest(self._bytes("result.extxyz")) != noted:
                raise ValueError("result.extxyz does not match its digest")
        except OSError as error:
            raise ValueError("result.extxyz is lost") from error
        return content

    def read_trajectory(self) -> bytes:
        """Return the frames of a finished calculation, checked against their digest; nothing if there are none.

        Raises
        ------
        ValueError
            If they are damaged.
        """
        noted = self.read_result().get("provenance", {}).get("result", {}).get("trajectory")
        try:
            content = self._bytes("trajectory.extxyz")
        except OSError:
            content = b""
        if noted and digest(content) != noted:
            raise ValueError("trajectory.extxyz does not match its digest")
        return content

    def damage(self) -> str:
        """Return what is damaged of a finished calculation, empty if nothing is or if it is not finished."""
        if not self.finished:
            return ""
        try:
            self.read_trajectory()
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def mend(self) -> pathlib.Path | None:
        """Set a damaged result aside, so that it is calculated again, and return where it is; None if it is whole.

        Raises
        ------
        StemAeError
            If it cannot be moved.
        """
        return set_aside(self.folder, OF_A_RESULT) if self.damage() else None

    # --- what came out --------------------------------------------------------------------------------------------

    def write_result(self, summary: Mapping[str, Any], atoms: ase.Atoms | None) -> None:
        """Write structure, then summary: once ``result.json`` is there the calculation is finished."""
        hashes = {}
        if atoms is not None:
            content = _extxyz(atoms)
            write_atomically(self.folder / "result.extxyz", content)
            hashes["structure"] = digest(content)
        if (self.folder / "trajectory.extxyz").exists():
            sync(self.folder / "trajectory.extxyz")
            hashes["trajectory"] = digest(self._bytes("trajectory.extxyz"))
        provenance = {**self.input["provenance"], "result": hashes}
        write_atomically(self.folder / "result.json", sealed({**summary, "provenance": provenance}))
        sync(self.folder)


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
        self._calculation = calculation
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
        self._append("history.csv", f"{step},{energy:.8f},{fmax:.6g},{temperature:.2f},{self.seconds:.2f}\n".encode())
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
        """Write a checkpoint to resume from.

        ``positions``, and the number of ``steps`` and of ``frames`` so far, are needed in any case.
        """
        stream = io.BytesIO()
        np.savez(stream, **{name: value for name, value in arrays.items() if value is not None})
        for name in ("trajectory.extxyz", "history.csv"):
            sync(self.folder / name)  # a checkpoint must not survive a power cut that the frames before it do not
        write_atomically(self.folder / "checkpoint.npz", stream.getvalue())
        self._last_checkpoint = time.monotonic()

    def resume(self, count: int) -> dict[str, NDArray[Any]]:
        """Go back to the last checkpoint: return its arrays, and drop frames and history after it.

        If there is none, or if it or a frame before it is damaged, everything begins anew, without arrays. What is
        damaged is set aside.

        Parameters
        ----------
        count : int
            Number of atoms.
        """
        try:
            kept = self._checkpoint(count)
            content = self._first_frames(int(kept.get("frames", 0)))
        except Exception as error:  # a damaged file can raise anything in its reader
            place = set_aside(self.folder, ("checkpoint.npz", "trajectory.extxyz", "history.csv"))
            print(f"The checkpoint cannot be used ({error}): it was moved to {place}, and the job starts again.")
            kept, content = {}, b""
        write_atomically(self.folder / "trajectory.extxyz", content)
        step = int(kept.get("steps", 0))
        rows = ((line, _numbers(line)) for line in self._calculation.history_lines())
        lines = [f"{line}\n" for line, row in rows if kept and row and row[0] <= step]
        write_atomically(self.folder / "history.csv", "".join(lines).encode())
        return kept

    def _checkpoint(self, count: int) -> dict[str, NDArray[Any]]:
        path = self.folder / "checkpoint.npz"
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as content:  # zip's check sums are compared as it is read
            kept = dict(content)
        if kept["positions"].shape != (count, 3) or not np.isfinite(kept["positions"]).all():
            raise ValueError("it is of another structure")
        return kept

    def _first_frames(self, number: int) -> bytes:
        frames = list(self.frames(number))
        if len(frames) < number:
            raise ValueError(f"only {len(frames)} of {number} frames of the trajectory are left")
        return b"".join(map(_extxyz, frames))

    def frames(self, kept: int) -> Iterator[ase.Atoms]:
        """Go through the first frames of the trajectory."""
        from ase.io import iread

        path = self.folder / "trajectory.extxyz"
        if kept and path.exists():
            yield from iread(path, index=f":{kept}", format="extxyz")

    def frame(self, atoms: ase.Atoms) -> None:
        """Append one frame to the trajectory."""
        self._append("trajectory.extxyz", _extxyz(atoms))

    def _append(self, name: str, content: bytes) -> None:
        try:
            with (self.folder / name).open("ab") as stream:
                stream.write(content)
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(line: str) -> tuple[float, ...]:
    """Return the five numbers of a line of the history; none if the line is damaged."""
    try:
        row = tuple(float(word) for word in line.split(","))
    except ValueError:
        return ()
    return row if len(row) == 5 else ()


def _plain(value: Any) -> Any:
    """Turn numpy's numbers and arrays into JSON's."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
