"""Where a calculation's process runs. What is known about it lies in its folder, so that a new worker can take over."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Protocol

import stem_ae
from stem_ae import processes
from stem_ae.errors import StemAeError
from stem_ae.simulate.calculation import disk_error, write_atomically

_GRACE = 3.0
"""Seconds between asking a process to stop and stopping it."""


class Executor(Protocol):
    """Starts, watches and stops the process of one calculation."""

    def start(self, folder: pathlib.Path) -> bool:
        """Start it and return True, or return False because it runs already."""

    def alive(self, folder: pathlib.Path) -> bool:
        """Say whether it is still waiting or running."""

    def stop(self, folder: pathlib.Path) -> None:
        """Stop it with everything it started; nothing if it does not run."""


class LocalExecutor:
    """Processes on this machine, each in a session of its own, so that they outlive whoever started them.

    Parameters
    ----------
    threads : int
        Threads for each process.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._children: dict[pathlib.Path, subprocess.Popen[bytes]] = {}

    def start(self, folder: pathlib.Path) -> bool:
        """Start ``python -m stem_ae.simulate FOLDER``."""
        if held(folder):
            return False
        try:
            with (folder / "log.txt").open("ab") as log:
                self._children[folder] = subprocess.Popen(
                    processes.command("stem_ae.simulate", str(folder)), stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, env=processes.environment(self._threads), **processes.detached(),
                )  # fmt: skip
        except OSError as error:
            raise disk_error(error, folder) from error
        return True

    def alive(self, folder: pathlib.Path) -> bool:
        """Say whether our process, or one that an earlier worker started, is at work."""
        child = self._children.get(folder)
        if child is not None:
            if child.poll() is None:
                return True
            del self._children[folder]
        return held(folder)

    def stop(self, folder: pathlib.Path) -> None:
        """Ask the process group to end, then end it."""
        deadline = time.monotonic() + _GRACE
        gentle = True
        while self.alive(folder) and time.monotonic() < deadline + _GRACE:
            child = self._children.get(folder)
            kill_group(child.pid if child else _pid(folder), gentle=gentle)
            time.sleep(0.05)
            gentle = gentle and time.monotonic() < deadline


def held(folder: pathlib.Path) -> bool:
    """Say whether a process holds the folder's lock, which the system takes back however the process dies."""
    from filelock import FileLock, Timeout

    if not (folder / "lock").exists():
        return False
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def kill_group(pid: int | None, gentle: bool) -> None:
    """End a process with all its children."""
    if pid is None:
        return
    if sys.platform == "win32":
        force = [] if gentle else ["/F"]
        subprocess.run(["taskkill", "/T", *force, "/PID", str(pid)], capture_output=True, check=False)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM if gentle else signal.SIGKILL)


def _pid(folder: pathlib.Path) -> int | None:
    try:
        return int((folder / "pid").read_text())
    except (OSError, ValueError):
        return None


class SlurmExecutor:
    """Jobs of a Slurm cluster that shares the queue's file system.

    A crash between ``sbatch`` and noting its number must not submit twice, therefore the job's *name* is the
    calculation's, and a job of that name is looked for first. A cluster that does not answer is waited for: unreachable
    does not mean gone.

    Parameters
    ----------
    options : list of str
        For ``sbatch``, such as ``["--partition=short", "--cpus-per-task=4", "--time=2:00:00"]``.
    python : str
        The interpreter on the nodes.
    """

    def __init__(self, options: list[str] | None = None, python: str | None = None) -> None:
        self._options = options or []
        self._python = python or processes.python()
        self._states: dict[pathlib.Path, tuple[float, bool]] = {}

    def start(self, folder: pathlib.Path) -> bool:
        """Submit it, unless a job of its name exists."""
        if self._find(folder) is not None:
            return False
        home = str(pathlib.Path(stem_ae.__file__).parents[1])
        command = [
            "sbatch", "--parsable", "--requeue", f"--job-name={_name(folder)}", f"--output={folder / 'log.txt'}",
            "--open-mode=append", f"--export=ALL,PYTHONPATH={home}", *self._options,
            "--wrap", f"exec {self._python} -m stem_ae.simulate {folder}",
        ]  # fmt: skip
        number = _slurm(command).strip().split(";")[0]
        write_atomically(folder / "slurm.json", json.dumps({"job": number}).encode())
        self._states.pop(folder, None)
        return True

    def alive(self, folder: pathlib.Path) -> bool:
        """Say whether Slurm still has it waiting or running; asked at most once a second."""
        asked, state = self._states.get(folder, (-1e9, True))
        if time.monotonic() - asked < 1.0:
            return state
        try:
            state = self._find(folder) is not None
        except StemAeError:
            state = True
        self._states[folder] = (time.monotonic(), state)
        return state

    def stop(self, folder: pathlib.Path) -> None:
        """Cancel it and wait until Slurm has let it go."""
        number = self._find(folder)
        if number is None:
            return
        _slurm(["scancel", number])
        deadline = time.monotonic() + 60
        while self._find(folder) is not None and time.monotonic() < deadline:
            time.sleep(0.5)

    def _find(self, folder: pathlib.Path) -> str | None:
        listed = _slurm(["squeue", "--noheader", "--format=%i", "--me", f"--name={_name(folder)}"]).split()
        return listed[0] if listed else None


def _name(folder: pathlib.Path) -> str:
    return f"stem-ae-{folder.name}"


def _slurm(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise StemAeError(
            f"{command[0]} is not installed here: run the worker on a machine that reaches the cluster, or set the "
            "executor to local."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise StemAeError("Slurm does not answer: look at the cluster, the jobs are kept.") from error
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise StemAeError(f"Slurm refused ({command[0]}): {reason}")
    return done.stdout
