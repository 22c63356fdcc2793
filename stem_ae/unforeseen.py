"""Unexpected errors: the user reads one sentence, the details go to a log file."""

from __future__ import annotations

import errno
import os
import pathlib
import platform
import sys
import time
import traceback

import platformdirs

from stem_ae.errors import StemAeError

_KEPT = 1 << 20
"""Bytes of the log; what is older than that goes."""


def log_file() -> pathlib.Path:
    """Return where the details go; ``STEM_AE_LOG`` overrides it."""
    override = os.environ.get("STEM_AE_LOG")
    return pathlib.Path(override) if override else platformdirs.user_log_path("stem_ae", appauthor=False) / "errors.log"


def in_a_sentence(error: BaseException) -> StemAeError:
    """Return the error that the user reads: errors of the system as they are, others with a reference to the log."""
    if isinstance(error, StemAeError):
        return error
    if isinstance(error, MemoryError):
        return StemAeError("There is not enough memory for this: take a smaller part, or another machine.")
    if isinstance(error, RecursionError):
        return StemAeError("The input is nested too deeply to be read.")
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("stem_ae"):
        return StemAeError(f"This needs {error.name}, which is not installed: pip install {error.name}.")
    if isinstance(error, OSError) and error.errno is not None:
        return StemAeError(_of_the_system(error))
    name = type(error).__name__
    reason = (str(error).strip().splitlines() or [""])[0][:150]
    named = f"{name}: {reason}" if reason else name
    return StemAeError(f"This failed unexpectedly ({named}); {_logged(error)}")


def _of_the_system(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full{where and ':'}{where}: free some space and try again."
    return f"{error.strerror or 'The system refuses'}{where and ':'}{where}."


def _logged(error: BaseException) -> str:
    """Write the details of an error to the log, and say where that is."""
    path = log_file()
    head = f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} Python {platform.python_version()} {' '.join(sys.argv)[:500]}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes()[-_KEPT:] if path.exists() else b""
        text = head + "".join(traceback.format_exception(error))
        path.write_bytes(before + text.encode("utf-8", errors="replace"))
    except OSError:
        return "its details could not be written either."
    return f"please report it with the end of {path}."
