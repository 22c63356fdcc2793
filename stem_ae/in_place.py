"""Whether a file that is written to can still be found where it was opened."""

from __future__ import annotations

import errno
import os
import pathlib
from typing import IO, Any


def check_in_place(file: IO[Any], path: pathlib.Path) -> None:
    """Raise FileNotFoundError if an open file was deleted, moved or replaced: what is written then is not kept."""
    opened = os.fstat(file.fileno())
    try:
        there = path.stat()
        is_same = (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)
    except OSError:
        is_same = False
    if not is_same:
        raise FileNotFoundError(errno.ENOENT, "it was deleted, moved or replaced", str(path))
