"""Calls into a driver that may hang: made in another thread, with a time limit for the wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_IDLE_S = 5.0  # a thread without work ends after this time
_MOST_HANGING = 16  # calls: after that no further thread is started


class Hung(Exception):  # noqa: N818  (the call may yet end well)
    """A call did not return in time. It goes on in its thread."""


class _Call:
    def __init__(self, work: Callable[[], object], late: Callable[[], object]) -> None:
        self._work, self._late = work, late
        self._answer: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._given_up = False

    def perform(self) -> None:
        """Make the call; runs in the working thread."""
        try:
            answer: tuple[object, BaseException | None] = (self._work(), None)
        except BaseException as error:  # whatever it is, the caller gets it
            answer = (None, error)
        with self._lock:
            if not self._given_up:
                self._answer.put(answer)
                return
        _pool.returned()
        self._late()

    def result(self, seconds: float) -> object:
        """Wait for the result."""
        try:
            value, error = self._answer.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            with self._lock:
                self._given_up = self._answer.empty()
            if self._given_up:
                _pool.gave_up()
                raise Hung from None
            value, error = self._answer.get()
        if error is None:
            return value
        if isinstance(error, Exception):
            raise error
        # A driver that exits or is cancelled has failed; it must not pass for the end of the caller.
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


class _Pool:
    """Threads that wait for the next call, so that a call costs some 20 µs and not the start of a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[_Call]] = []
        self._hanging = 0

    @property
    def is_full(self) -> bool:
        """Whether so many calls hang that another one would most likely hang as well."""
        return self._hanging >= _MOST_HANGING

    def start(self, call: _Call) -> None:
        with self._lock:
            waiting = self._idle.pop() if self._idle else None
        if waiting is None:
            waiting = queue.SimpleQueue()
            threading.Thread(target=self._work, args=[waiting], daemon=True, name="stem_ae driver call").start()
        waiting.put(call)

    def _work(self, calls: queue.SimpleQueue[_Call]) -> None:
        while True:
            try:
                call = calls.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if calls in self._idle:
                        self._idle.remove(calls)
                        return
                continue  # it was given a call in this very moment
            call.perform()
            del call  # or it would keep the instrument alive
            with self._lock:
                self._idle.append(calls)

    def gave_up(self) -> None:
        with self._lock:
            self._hanging += 1

    def returned(self) -> None:
        with self._lock:
            self._hanging -= 1


_pool = _Pool()


def within(seconds: float, work: Callable[[], Result], late: Callable[[], object] = lambda: None) -> Result:
    """Do something in another thread and return what it returns, or raise what it raises.

    An exception that would end a program or a task (``SystemExit``, ``asyncio.CancelledError``) is raised as a
    ``RuntimeError``.

    Parameters
    ----------
    seconds : float
        How long it is waited for.
    work : callable
        What to do.
    late : callable
        Called in that thread if ``work`` has ended after nobody waited any more.

    Raises
    ------
    Hung
        If it has not ended in time, or so many calls hang already that no further one is made.
    """
    if _pool.is_full:
        raise Hung
    call = _Call(work, late)
    _pool.start(call)
    return call.result(seconds)  # type: ignore[return-value]


def aside(work: Callable[[], object]) -> None:
    """Do something in another thread and do not wait for it. What it raises is dropped."""
    _pool.start(_Call(work, lambda: None))
