"""Structures and jobs for a panel, worked on in a process of its own.

Building a structure imports and computes for a tenth of a second, listing jobs reads a database: in the process of a
user interface either would be felt. :mod:`stem_ae.jobs.serve` is the other side and says what can be asked.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from stem_ae import folders, processes
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError

NEWEST_ONLY = ("build", "rows", "spots")
"""Questions of which only the newest one matters: an earlier one that nobody has begun to answer is dropped."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What came back: values and arrays, or a sentence on what went wrong."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    arrays: processes.Arrays = dataclasses.field(default_factory=dict)
    error: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class _Question:
    due: float
    number: int
    values: dict[str, Any]
    arrays: Mapping[str, Any]
    answered: Callable[[Answer], None]


class Workbench:
    """Asks a process of its own, one question after the other, without ever making the asker wait.

    The process is started with the first question, started again if it was killed, and ends with this one or when
    closed. Jobs that were submitted go on.

    Parameters
    ----------
    queue : str or None
        The queue's folder; the user's by default.
    """

    def __init__(self, queue: str | None = None) -> None:
        self._queue = queue
        self._changed = threading.Condition()
        self._questions: list[_Question] = []
        self._numbers = itertools.count()
        self._closed = False
        self._process = processes.Companion(
            "stem_ae.jobs.serve", "builds structures", "try again; if it happens again, free some memory", threads=1
        )
        self._thread: threading.Thread | None = None

    @property
    def queue(self) -> str:
        """The queue's folder. The user may choose another one at any time: the next question is about that one."""
        return self._queue or str(folders.folder("queue"))

    def ask(
        self,
        values: Mapping[str, Any],
        answered: Callable[[Answer], None],
        arrays: Mapping[str, Any] | None = None,
        after_s: float = 0.0,
    ) -> None:
        """Ask a question, and have ``answered`` called with the answer in another thread.

        Parameters
        ----------
        values : mapping
            ``"do"`` says what; see :mod:`stem_ae.jobs.serve`.
        answered : callable
            Called once, unless the question was dropped for a newer one or this was closed.
        arrays : mapping, optional
            What goes with it.
        after_s : float
            Seconds before it is asked.
        """
        question = _Question(
            time.monotonic() + after_s, next(self._numbers), {"queue": self.queue, **values}, arrays or {}, answered
        )
        with self._changed:
            if self._closed:
                return
            if values["do"] in NEWEST_ONLY:
                self._questions = [other for other in self._questions if other.values["do"] != values["do"]]
            self._questions.append(question)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stem_ae workbench", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the process, in the middle of an answer if there is one."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._process.kill()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    # --- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while question := self._next():
            try:
                self._process.start()
                answer = Answer(*self._process.ask(question.values, question.arrays))
            except (StemAeError, processes.RemoteError) as error:
                answer = Answer(error=str(error))
            if not self._closed:
                question.answered(answer)
        self._process.close()

    def _next(self) -> _Question | None:
        """Wait for the next question that is due; None when closed."""
        with self._changed:
            while not self._closed:
                first = min(self._questions, key=lambda question: (question.due, question.number), default=None)
                wait = None if first is None else first.due - time.monotonic()
                if first is not None and wait is not None and wait <= 0:
                    self._questions.remove(first)
                    return first
                self._changed.wait(wait)
        return None


# --- atoms as messages ------------------------------------------------------------------------------------------------

_IN_WORDS = ("species", "shape", "sampling")


def packed(atoms: Atoms2D) -> tuple[dict[str, Any], processes.Arrays]:
    """Return found atoms as what a message can hold."""
    fields = {field.name: getattr(atoms, field.name) for field in dataclasses.fields(atoms)}
    words = {name: fields.pop(name) for name in _IN_WORDS}
    return {"atoms": words}, {f"atoms.{name}": array for name, array in fields.items()}


def unpacked(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Atoms2D:
    """Return the found atoms that a message holds."""
    fields: dict[str, Any] = {n.removeprefix("atoms."): a for n, a in arrays.items() if n.startswith("atoms.")}
    return Atoms2D(**fields | {name: tuple(values["atoms"][name]) for name in _IN_WORDS})
