"""Checks of files and folders that users name, before anything is done with them."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator

from stem_ae.errors import StemAeError

_LONGEST_TEXT = 256 << 20
"""Most bytes of a text file, such as a table of atoms."""


def existing_file(path: str | pathlib.Path) -> pathlib.Path:
    """Return the path of a plain file that is there. Reading a pipe or a device could hang.

    Raises
    ------
    StemAeError
        If it is missing, a folder, a pipe or a device.
    """
    path = pathlib.Path(path)
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = getattr(error, "strerror", None) or error
        raise StemAeError(f"There is no file {path}." if missing else f"Cannot read {path}: {reason}.") from error
    if stat.S_ISDIR(found.st_mode):
        raise StemAeError(f"{path} is a folder: give a file.")
    if not stat.S_ISREG(found.st_mode):
        raise StemAeError(f"{path} is a pipe or a device: give a file.")
    return path


def read_text(path: str | pathlib.Path, errors: str = "strict") -> str:
    """Return a text file's content; ``errors="replace"`` lets letters pass that are not in UTF-8.

    Raises
    ------
    StemAeError
        If it is not a file, cannot be read, or is not text.
    """
    path = existing_file(path)
    if path.stat().st_size > _LONGEST_TEXT:
        raise StemAeError(f"{path.name} is too long ({path.stat().st_size / 1e6:.0f} MB) for a table or a description.")
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)  # Excel puts a byte order mark first
    except OSError as error:
        raise StemAeError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StemAeError(f"{path.name} is not UTF-8 text: is it the right file?") from error


def check_xyz(text: str) -> int:
    """Return how many frames an XYZ file has, each of as many atoms as it states.

    Readers allocate memory for the stated number of atoms before they read them.

    Raises
    ------
    StemAeError
        If a frame states more or fewer atoms than follow.
    """
    lines = text.splitlines()
    place, frames = 0, 0
    while place < len(lines) and lines[place].strip():
        try:
            count = int(lines[place])
        except ValueError:
            raise StemAeError(
                f"line {place + 1} is {lines[place][:40]!r} and should say how many atoms follow: more atoms are there "
                "than stated, or it is not an XYZ file."
            ) from None
        there = len(lines) - place - 2
        if not 0 <= count <= there:
            raise StemAeError(f"line {place + 1} states {count} atoms, and {max(there, 0)} lines follow.")
        place += count + 2
        while place < len(lines) and lines[place].lstrip().startswith("VEC"):
            place += 1
        frames += 1
    return frames


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a path to write a file to, which takes the place of ``path`` once it is complete.

    If the disk is full, an older file stays as it was.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path = path.resolve()
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with tempfile.TemporaryDirectory(prefix=".stem_ae-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        part = pathlib.Path(folder) / path.name
        yield part
        part.replace(path)


def output_folder(path: str | pathlib.Path) -> pathlib.Path:
    """Return a folder to write to; it is made if it is not there.

    Raises
    ------
    StemAeError
        If it cannot be made, or is a file.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".stem_ae-can-write"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "it, or a folder above it, is a file" if is_file else getattr(error, "strerror", None) or error
        raise StemAeError(f"Cannot write to the folder {path}: {reason}.") from error
    return path
