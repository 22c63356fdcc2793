"""Working on one calculation, in the process that :mod:`stem_ae.simulate` is."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from stem_ae import processes
from stem_ae.errors import StemAeError
from stem_ae.simulate.calculation import Calculation, is_full, write_atomically
from stem_ae.simulate.tasks import from_dict

BUSY = 75
"""Exit code: another process is working on this folder."""

FULL = 74
"""Exit code: the disk is full. Nothing is wrong with the calculation: it can go on when there is room."""

LOOK_EVERY_S = 2.0
"""Seconds between signs of life, which are also looks at whether the calculation was cancelled."""

_GRACE_S = 6.0
"""Seconds that whoever cancels has for ending this process gently."""


def run_folder(folder: pathlib.Path, owns_process: bool = False) -> int:
    """Work on one calculation until it is finished or has failed, and return the exit code.

    Holding the folder's lock says that somebody works on it; a second process leaves at once.

    Parameters
    ----------
    folder : path
        The calculation's.
    owns_process : bool
        Whether this process is there for nothing else: it then gives signs of life, and ends itself with all that it
        started when the calculation is cancelled or its folder is gone.
    """
    from filelock import FileLock, Timeout

    calculation = Calculation(folder)
    lock = FileLock(folder / "lock")
    try:
        # A process that asks whether the lock is held takes it for a moment.
        lock.acquire(timeout=2.0, poll_interval=0.02)
    except Timeout:
        return BUSY
    with lock:
        if running_process(folder) is not None:  # somebody deleted the lock that it holds
            return BUSY
        write_atomically(folder / "process.json", json.dumps(processes.identify(os.getpid())).encode())
        calculation.mend()
        if calculation.finished:
            return 0
        (folder / "error.json").unlink(missing_ok=True)
        try:
            with _signs_of_life(folder) if owns_process else contextlib.nullcontext():
                from_dict(calculation.input["task"]).run(calculation)
        except Exception as error:
            traceback.print_exc()
            if is_full(error):
                return FULL
            if not folder.is_dir():  # deleted or moved: there is nobody to tell
                return 1
            write_atomically(folder / "error.json", json.dumps({"error": _sentence(error)}).encode())
            return 1
    return 0


def running_process(folder: pathlib.Path) -> dict[str, Any] | None:
    """Return which other process of this machine works on a calculation, as that one wrote it; None if none does."""
    try:
        content = json.loads((folder / "process.json").read_bytes()[:10_000])
    except (OSError, ValueError, RecursionError):
        return None
    is_one = isinstance(content, dict) and content.get("pid") != os.getpid() and processes.is_running(content)
    return content if is_one else None


def _sentence(error: Exception) -> str:
    if isinstance(error, StemAeError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory for this: choose a smaller region or another engine."
    lines = str(error).splitlines() or [""]
    return f"The calculation failed ({type(error).__name__}: {lines[0][:200]})."


@contextlib.contextmanager
def _signs_of_life(folder: pathlib.Path) -> Iterator[None]:
    """Touch a file of the folder all the time, and end this process when it was cancelled or its folder is gone.

    Whoever cancels may be on another machine, from where this process cannot be reached.
    """
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            with contextlib.suppress(OSError):  # such as a full disk
                (folder / "alive").touch()
            is_wanted = folder.is_dir() and not (folder / "cancel").exists()
            if not is_wanted and not is_over.wait(_GRACE_S):
                _end()

    (folder / "alive").touch()
    threading.Thread(target=beat, name="signs of life", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _end() -> None:
    """End this process with its children."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
