"""Python processes beside this one: how they are started, how values travel through their pipes, how they end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import stem_ae
from stem_ae.errors import StemAeError

Arrays = dict[str, NDArray[Any]]
Answer = TypeVar("Answer")

_HEADER = struct.Struct("<II")
_ALIVE = {"alive": True}
"""The message that a process sends every :data:`_BEAT_S` while it works on an answer."""
_BEAT_S = 1.0
_SILENT_S = 30.0
"""Seconds without a sign of life after which a process counts as hung."""
_STARTING_S = 180.0
"""The same until it has first been heard of: importing PyTorch from a cold, shared disk takes a minute."""
_BURYING_S = 10.0
"""Seconds to wait for a killed process: one that hangs in the kernel does not even end then."""
_PIPE_SIZE = 1 << 20
"""Bytes that fit into a pipe where the system lets us choose: a frame goes through in one go, not in 16."""


# --- starting them --------------------------------------------------------------------------------------------------


def python() -> str:
    """Return the Python interpreter of this environment.

    Inside Nion Swift, ``sys.executable`` may be Swift's launcher.

    Raises
    ------
    StemAeError
        If there is none.
    """
    if pathlib.Path(sys.executable or "").stem.lower().startswith("python"):
        return sys.executable
    names = ["python.exe", "Scripts/python.exe"] if sys.platform == "win32" else ["bin/python3", "bin/python"]
    for path in (pathlib.Path(sys.prefix, name) for name in names):
        if path.exists():
            return str(path)
    raise StemAeError(f"There is no Python interpreter in {sys.prefix}: install stem_ae where Nion Swift's Python is.")


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line of one of our modules in a process of its own.

    ``-P`` keeps the current folder off the import path: it holds data that somebody else may have written, and a
    ``numpy.py`` among them would be run.

    Raises
    ------
    StemAeError
        If there is no Python interpreter.
    """
    return [python(), "-P", "-m", module, *arguments]


SETTINGS = ("STEM_AE_MODELS", "STEM_AE_DEVICE", "STEM_AE_THREADS")
"""Environment variables that say how networks compute in other processes, and where their models are."""


def chosen_threads() -> int | None:
    """Return how many threads networks may compute with, as ``STEM_AE_THREADS`` says; None if it does not.

    Raises
    ------
    StemAeError
        If it is no number of threads.
    """
    text = os.environ.get("STEM_AE_THREADS", "").strip()
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise StemAeError(f"STEM_AE_THREADS is {text!r}: set it to a whole number from 1, or not at all.")
    return int(text) if text else None


def environment(threads: int | None = None) -> dict[str, str]:
    """Return the environment of a Python process: it finds this very stem_ae, and nothing in its current folder.

    Parameters
    ----------
    threads : int or None
        How many it may compute with; None: as many as this one.
    """
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if threads else ()
    surroundings = {**os.environ, **dict.fromkeys(limits, str(threads))}
    surroundings.pop("PYTHONPATH", None)
    path = search_path()
    return {**surroundings, "PYTHONPATH": path} if path else surroundings


def search_path() -> str:
    """Return ``PYTHONPATH`` for another process.

    Relative and empty entries would mean another folder there than here, so they are left out.
    """
    home = str(pathlib.Path(stem_ae.__file__).parents[1])
    is_installed = home in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    given = filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(given if is_installed else dict.fromkeys([home, *given]))  # a working tree comes first


def detached() -> dict[str, Any]:
    """Return how to start a process that survives its parent."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    return {"start_new_session": True}


def without_window() -> dict[str, Any]:
    """Return how to start a process that opens no console of its own."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}
    return {}


# --- which process is meant -------------------------------------------------------------------------------------------


def identify(pid: int) -> dict[str, Any] | None:
    """Return what identifies a process uniquely, on any machine and at any time; None if it does not run here."""
    started = _started(pid)
    if started is None:
        return None
    return {"pid": pid, "host": socket.gethostname(), "boot": _boot(), "started": started}


def is_running(identity: Mapping[str, Any]) -> bool:
    """Return whether an identified process still runs on this machine: another one may have got its PID."""
    pid = identity.get("pid")
    return isinstance(pid, int) and pid > 0 and identify(pid) == dict(identity)


@functools.cache
def _boot() -> str:
    """Return a word that changes when the machine starts anew, and in a container with process numbers of its own."""
    if sys.platform == "linux":
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    if sys.platform == "win32":
        return ""  # there the start of a process is an absolute time
    return _printed("sysctl", "-n", "kern.boottime")


def _started(pid: int) -> str | None:
    """Return when a process started, in some unit; None if there is none."""
    if sys.platform == "linux":
        found = status(pid)
        return None if found is None or found[0] == "Z" else found[19]
    if sys.platform == "win32":
        return _started_windows(pid)
    return _printed("ps", "-o", "lstart=", "-p", str(pid)) or None


def status(pid: int) -> list[str] | None:
    """Return the fields of Linux's ``/proc/PID/stat`` from the state on; None if there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _printed(*line: str) -> str:
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()


def _started_windows(pid: int) -> str | None:
    if sys.platform != "win32":
        return None
    import ctypes

    kernel = ctypes.windll.kernel32
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return None
    times = [ctypes.c_uint64() for _ in range(4)]
    told = kernel.GetProcessTimes(ctypes.c_void_p(handle), *map(ctypes.byref, times))
    kernel.CloseHandle(ctypes.c_void_p(handle))
    return str(times[0].value) if told and not times[1].value else None


# --- values through pipes -------------------------------------------------------------------------------------------


def widen(pipe: IO[bytes]) -> None:
    """Let more go through a pipe at once, where that can be chosen."""
    try:
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except (ImportError, AttributeError, OSError):  # not Linux, or more than this user may have: it works anyhow
        pass


def send(pipe: IO[bytes], values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Send what JSON can say, and arrays, as one message.

    Raises
    ------
    OSError
        If nobody reads any more.
    """
    import safetensors.numpy

    text = json.dumps(values).encode()
    data = safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items()}) if arrays else b""
    pipe.write(_HEADER.pack(len(text), len(data)) + text + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], Arrays]:
    """Wait for the next message.

    Raises
    ------
    EOFError
        If the other side has ended.
    """
    import safetensors.numpy

    text_size, data_size = _HEADER.unpack(_exactly(pipe, _HEADER.size))
    values = json.loads(_exactly(pipe, text_size))
    return values, safetensors.numpy.load(_exactly(pipe, data_size)) if data_size else {}


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the other side has ended")
    return data


# --- the side that answers --------------------------------------------------------------------------------------------


class Answers:
    """Where a process answers: what was its standard output. Whatever a library prints goes to the error stream."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        widen(self._pipe)
        self._lock = threading.Lock()
        self._is_working = threading.Event()
        threading.Thread(target=self._beat, name="signs of life", daemon=True).start()

    def send(self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Send a message; raises OSError if nobody reads any more."""
        with self._lock:
            send(self._pipe, values, arrays)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Give signs of life until this is left, so that the other side can tell long work from a hung process."""
        self._is_working.set()
        try:
            yield
        finally:
            self._is_working.clear()

    def _beat(self) -> None:
        while True:
            self._is_working.wait()
            time.sleep(_BEAT_S)
            if self._is_working.is_set():
                try:
                    self.send(_ALIVE)
                except OSError:
                    return


def serve(answer: Callable[[dict[str, Any], Arrays], tuple[Mapping[str, Any], Arrays]]) -> None:
    """Answer the requests that come by the standard streams, until the other side is gone."""
    answers = Answers()
    while True:
        try:
            request, arrays = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            with answers.working():
                values, result = answer(request, arrays)
        except Exception as error:  # the other side must hear of it, whatever it is
            values, result = failure(error), {}
        try:
            answers.send(values, result)
        except OSError:
            return


# --- errors through pipes -------------------------------------------------------------------------------------------


class RemoteError(Exception):
    """Something failed in another process in a way that nobody foresaw.

    Parameters
    ----------
    reason : str
        What the error said.
    details : str
        Its traceback.
    """

    def __init__(self, reason: str, details: str) -> None:
        super().__init__(reason)
        self.add_note(details)


def failure(error: Exception) -> dict[str, str]:
    """Return an error as the values of a message."""
    if isinstance(error, StemAeError):
        return {"refused": str(error)}
    return {"failed": str(error) or type(error).__name__, "traceback": "".join(traceback.format_exception(error))}


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a message, unless they are an error.

    Raises
    ------
    StemAeError
        What the other side refused.
    RemoteError
        What went wrong there.
    """
    if "refused" in values:
        raise StemAeError(values["refused"])
    if "failed" in values:
        raise RemoteError(values["failed"], values["traceback"])
    return values


# --- the side that asks -----------------------------------------------------------------------------------------------


class Companion:
    """A Python process that works on what it is sent and answers, and ends with this one, however that ends.

    One thread at a time may ask; any thread may end it. One that hangs is ended and may be started again.

    Parameters
    ----------
    module : str
        What runs there. It reads messages from standard input until that ends.
    task : str
        What it does, as in "The process that ...".
    advice : str
        What users should do if it ends by itself, a clause.
    threads : int
        How many it may compute with; by default as ``STEM_AE_THREADS`` says or, so that the user interface keeps a
        core, one less than there are.
    """

    def __init__(self, module: str, task: str, advice: str, threads: int | None = None) -> None:
        self._module, self._task, self._advice = module, task, advice
        self._threads = threads
        self._settings: list[str | None] = []
        """:data:`SETTINGS` when it was started."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._was_heard = False
        """Whether the running process has sent anything yet."""

    @property
    def pid(self) -> int | None:
        """Its number; None unless it runs."""
        with self._lock:
            process = self._process
            return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it, or once more if it has ended, unless it runs.

        Raises
        ------
        StemAeError
            If it cannot be started, or was closed.
        """
        if self.pid is not None:
            return
        self._reap()
        line = command(self._module)
        threads = self._threads or chosen_threads() or max(1, (os.cpu_count() or 2) - 1)
        self._settings = _settings()
        with self._lock:
            if self._closed:
                raise StemAeError(f"The process that {self._task} was closed.")
            try:
                self._process = process = subprocess.Popen(
                    line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(threads),
                    **without_window(),
                )  # fmt: skip
            except OSError as error:
                raise StemAeError(f"The process that {self._task} could not be started: {error}.") from error
            self._was_heard = False
        for pipe in _pipes(process):
            widen(pipe)

    def renew(self) -> None:
        """End it if :data:`SETTINGS` have changed, so that the next start uses them; no request may be under way."""
        if self.pid is not None and self._settings != _settings():
            self._reap()

    def send(self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Send it a message. The first one starts it; that it has ended since must be known before another one does.

        Raises
        ------
        StemAeError
            If it cannot be started, has ended or hangs.
        """
        if self._process is None:
            self.start()
        self._talk(lambda requests, _: send(requests, values, arrays))

    def receive(self) -> tuple[dict[str, Any], Arrays]:
        """Wait for its next message, as long as it gives signs of life.

        Raises
        ------
        StemAeError
            If it has ended or hangs, or the message is a refusal.
        RemoteError
            If something failed there.
        """
        while True:
            values, arrays = self._talk(lambda _, answers: receive(answers))
            self._was_heard = True
            if values != _ALIVE:
                return checked(values), arrays

    def ask(
        self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> tuple[dict[str, Any], Arrays]:
        """Send a message and wait for the answer; raises what those two raise."""
        self.send(values, arrays)
        return self.receive()

    def kill(self) -> None:
        """End it now, whatever it does, and for good; does not wait."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End it and let go of it; to be called when nobody is asking any more."""
        self.kill()
        self._reap()

    def _talk(self, exchange: Callable[[IO[bytes], IO[bytes]], Answer]) -> Answer:
        with self._lock:
            process = self._process
        is_hung = threading.Event()
        patience = _SILENT_S if self._was_heard else _STARTING_S

        def give_up() -> None:
            is_hung.set()
            if process is not None:
                process.kill()  # which ends the reading or writing that waits for it

        deadline = threading.Timer(patience, give_up)
        deadline.daemon = True
        deadline.start()
        try:
            if process is None:
                raise EOFError
            return exchange(*_pipes(process))
        except (EOFError, OSError) as error:
            code = self._reap()
            what = f"ended unexpectedly (exit code {code})"
            if is_hung.is_set():
                what = f"gave no sign of life for {patience:.0f} s and was ended"
            raise StemAeError(f"The process that {self._task} {what}: {self._advice}.") from error
        finally:
            deadline.cancel()

    def _reap(self) -> int | None:
        """Let go of the process, which ends, and return its exit code."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        for pipe in _pipes(process):
            with contextlib.suppress(OSError):  # what could not be sent any more
                pipe.close()
        try:
            return process.wait(_BURYING_S)
        except subprocess.TimeoutExpired:
            return None


def _settings() -> list[str | None]:
    return [os.environ.get(name) for name in SETTINGS]


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
