"""Where a calculation's process runs. What is known about it lies in its folder, so that a new worker can take over."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from typing import Protocol

from stem_ae import processes
from stem_ae.errors import StemAeError
from stem_ae.simulate.calculation import disk_error, write_atomically
from stem_ae.simulate.running import running_process

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
    patience : float
        Seconds without a sign of life, and without computing, after which a process counts as hung and is ended.
    """

    def __init__(self, threads: int = 1, patience: float = 120.0) -> None:
        self._threads, self._patience = threads, patience
        self._children: dict[pathlib.Path, subprocess.Popen[bytes]] = {}
        self._signs: dict[pathlib.Path, tuple[float, object]] = {}
        """When each folder's process last gave a sign of life, and which."""

    def start(self, folder: pathlib.Path) -> bool:
        """Start ``python -m stem_ae.simulate FOLDER``."""
        if is_worked_on(folder):
            return False
        kill_leftovers(folder)
        self._signs.pop(folder, None)
        try:
            with (folder / "log.txt").open("ab") as log:
                self._children[folder] = subprocess.Popen(
                    processes.command("stem_ae.simulate", str(folder)), stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, env={**processes.environment(self._threads), _MARK: str(folder)},
                    **processes.detached(),
                )  # fmt: skip
        except OSError as error:
            raise disk_error(error, folder) from error
        return True

    def alive(self, folder: pathlib.Path) -> bool:
        """Return whether our process, or one that an earlier worker started, is working; a hung one is ended."""
        child = self._children.get(folder)
        if child is not None and child.poll() is not None:
            del self._children[folder]
            child = None
        if child is None and not is_worked_on(folder):
            return False
        if not self._hangs(folder, child):
            return True
        _note(folder, f"It gave no sign of life for {self._patience:.0f} s and was ended.")
        self.stop(folder, gently=False)
        return False

    def stop(self, folder: pathlib.Path, gently: bool = True) -> None:
        """Ask the process to end with all that it started, then end them."""
        deadline = time.monotonic() + _GRACE
        self._signs.pop(folder, None)
        while self._is_there(folder) and time.monotonic() < deadline + _GRACE:
            gently = gently and time.monotonic() < deadline
            child = self._children.get(folder)
            if child is not None:
                kill_group(child.pid, gently)  # our child: its PID is not reused before we have waited for it
            elif identity := running_process(folder):
                kill_group(identity["pid"], gently)
            time.sleep(0.05)
        if not self._is_there(folder):
            kill_leftovers(folder)

    def _is_there(self, folder: pathlib.Path) -> bool:
        child = self._children.get(folder)
        return (child is not None and child.poll() is None) or is_worked_on(folder)

    def _hangs(self, folder: pathlib.Path, child: subprocess.Popen[bytes] | None) -> bool:
        """Return whether the process on this machine has given no sign of life and used no CPU for too long."""
        identity = running_process(folder)
        pid = child.pid if child else identity["pid"] if identity else None
        if pid is None:  # of another machine: that one's worker sees to it
            return False
        sign = _touched(folder / "alive"), _computed(pid)
        last, before = self._signs.get(folder, (0.0, None))
        if sign != before:
            self._signs[folder] = time.monotonic(), sign
            return False
        return time.monotonic() - last > self._patience


_MARK = "STEM_AE_CALCULATION"
"""Environment variable of a calculation's process and all its children: the calculation's folder."""


def is_worked_on(folder: pathlib.Path) -> bool:
    """Return whether a process works on a calculation: it holds the lock, or still runs after that was deleted."""
    return held(folder) or running_process(folder) is not None


def held(folder: pathlib.Path) -> bool:
    """Say whether a process holds the folder's lock, which the system takes back however the process dies."""
    if sys.platform == "win32":
        return _held_windows(folder)
    import fcntl

    try:
        handle = os.open(folder / "lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # A shared lock: two processes that ask do not mistake each other for the holder, and it needs no write access.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(handle)
    return False


def _held_windows(folder: pathlib.Path) -> bool:
    from filelock import FileLock, Timeout

    if not (folder / "lock").exists():
        return False
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def kill_group(pid: int, gently: bool) -> None:
    """End a process with all its children."""
    if sys.platform == "win32":
        force = [] if gently else ["/F"]
        subprocess.run(["taskkill", "/T", *force, "/PID", str(pid)], capture_output=True, check=False)
        return
    number = signal.SIGTERM if gently else signal.SIGKILL
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:  # started by hand, in somebody else's group
            os.kill(pid, number)


def kill_leftovers(folder: pathlib.Path) -> None:
    """End the processes that a dead calculation left behind, so that a second one does not run beside them.

    Such processes are known by a variable that they inherited. Only Linux tells it.
    """
    if sys.platform != "linux" or not (folder / "process.json").exists():
        return
    mark = f"{_MARK}={folder}".encode()
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if int(path.parent.name) != os.getpid() and mark in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def _touched(path: pathlib.Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _computed(pid: int) -> object:
    """Return the CPU time of a process, where the system provides it."""
    fields = processes.status(pid) if sys.platform == "linux" else None
    return None if fields is None else (fields[11], fields[12])


def _note(folder: pathlib.Path, sentence: str) -> None:
    with contextlib.suppress(OSError), (folder / "log.txt").open("a") as log:
        log.write(f"{sentence}\n")


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
        # Slurm has ideas of its own about % and \\ in a file's name and about commas in a variable. What we choose is
        # said in the script, quoted for the shell, and the log's name is relative to the folder.
        line = [self._python, *processes.command("stem_ae.simulate", str(folder))[1:]]
        path = shlex.quote(f"PYTHONPATH={processes.search_path()}")
        command = [
            "sbatch", "--parsable", "--requeue", f"--job-name={_name(folder)}", f"--chdir={folder}",
            "--output=log.txt", "--open-mode=append", "--export=ALL", *self._options,
            "--wrap", f"exec env {path} {shlex.join(line)}",
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
