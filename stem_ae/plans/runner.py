"""bluesky's RunEngine in a thread of its own, with a stop button that blanks the beam before anything else."""

from __future__ import annotations

import datetime
import logging
import pathlib
import queue
import threading
import traceback
from collections.abc import Callable
from typing import Any, Literal

from bluesky.run_engine import RunEngine
from bluesky.utils import DuringTask, RunEngineInterrupted

from stem_ae import __version__
from stem_ae.errors import StemAeError
from stem_ae.microscope.devices import Microscope
from stem_ae.microscope.interlock import BeamAlarm
from stem_ae.plans.documents import DocumentWriter
from stem_ae.plans.stubs import Plan

State = Literal["idle", "running", "pausing", "paused", "ending"]
Outcome = Literal["", "completed", "stopped", "aborted", "failed"]


_instruments_in_use: set[str] = set()  # several panels have a runner each, but the microscope there is only one of
_instruments_lock = threading.Lock()


class Runner:
    """Runs one plan after the other. Its methods return at once and may be called from any thread.

    Parameters
    ----------
    microscope : Microscope
        What the plans work with.
    folder : path or None
        Where each run gets a folder of its own; None: nothing is written.
    changed : callable, optional
        Called in some thread whenever :attr:`state` has changed.
    document : callable, optional
        Called in the engine's thread with each document, arrays included, after it was written.
    """

    def __init__(
        self, microscope: Microscope, folder: pathlib.Path | None = None, changed: Callable[[], None] = lambda: None,
        document: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.microscope = microscope
        self.folder = folder
        self.state: State = "idle"
        self.outcome: Outcome = ""
        """How the last run ended."""
        self.error = ""
        """What went wrong in it, in a sentence."""
        self.result: Any = None
        """What its plan returned."""
        self.run_folder: pathlib.Path | None = None
        """Where it was written to."""
        self._changed, self._document = changed, document
        microscope.suspension.changed = lambda: self._changed()
        self._commands: queue.SimpleQueue[Literal["resume", "stop", "abort"]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._engine: RunEngine | None = None
        self._thread: threading.Thread | None = None
        self._end: Literal["", "stop", "abort"] = ""

    @property
    def suspended(self) -> str:
        """What the run waits for, blanked and parked, in a sentence; empty: for nothing."""
        return self.microscope.suspension.reason if self.state == "running" else ""

    # --- what the user does -----------------------------------------------------------------------------------------

    def start(self, plan: Plan, **metadata: Any) -> None:
        """Run a plan.

        Parameters
        ----------
        plan : generator
            See :mod:`stem_ae.plans`.
        **metadata
            More for the start document.

        Raises
        ------
        StemAeError
            If another one runs, be it another runner's.
        """
        with self._lock, _instruments_lock:
            if self.state != "idle" or self.microscope.instrument.name in _instruments_in_use:
                raise StemAeError("A run is under way: wait for its end or stop it first.")
            if alarm := self.microscope.interlock.alarm:
                raise StemAeError(f"{alarm} Nothing runs until somebody has acknowledged this.")
            self.microscope.interlock.reopen()
            _instruments_in_use.add(self.microscope.instrument.name)
            self._end, self.outcome, self.error, self.result, self.run_folder = "", "", "", None, None
            self._commands = queue.SimpleQueue()
            self.state = "running"
        self._thread = threading.Thread(target=self._run, args=[plan, metadata], daemon=True, name="stem_ae run")
        self._thread.start()
        self._changed()

    def pause(self) -> None:
        """Blank the beam at once and wait; what was being measured is measured anew on :meth:`resume`."""
        with self._lock:
            if self.state != "running" or self._engine is None:
                return
            self.state = "pausing"
            engine = self._engine
        # At once: an exposure that blanking cancels must not look finished to an engine that knows of no pause yet.
        self._aside(lambda: engine.request_pause(False))
        self.microscope.interlock.stop(self)
        self._changed()

    def resume(self) -> None:
        """Go on after a pause."""
        self._commands.put("resume")

    def stop(self) -> None:
        """Blank the beam at once and end the run; it counts as ended as planned."""
        self._end_by("stop")

    def abort(self) -> None:
        """Blank the beam at once and end the run; its documents say that it was aborted."""
        self._end_by("abort")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the run and return whether it has come."""
        if thread := self._thread:
            thread.join(timeout_s)
            return not thread.is_alive()
        return True

    def close(self) -> None:
        """Abort what runs and wait for it."""
        self.abort()
        self.wait(10.0)

    def _end_by(self, how: Literal["stop", "abort"]) -> None:
        with self._lock:
            was, engine = self.state, self._engine
            if was == "idle":
                return
            self._end, self.state = how, "ending"
        self.microscope.interlock.stop()
        self._commands.put(how)
        if was in ("running", "pausing") and engine is not None:
            self._aside(engine.stop if how == "stop" else engine.abort)
        self._changed()

    @staticmethod
    def _aside(work: Callable[[], object]) -> None:
        """Tell the engine, which may be busy, without waiting for its answer."""

        def tell() -> None:
            try:
                work()
            except Exception:  # it has ended, or was paused, meanwhile: the run's thread knows
                logging.getLogger(__name__).debug("The engine refused", exc_info=True)

        threading.Thread(target=tell, daemon=True, name="stem_ae engine").start()

    # --- the run's thread -------------------------------------------------------------------------------------------

    def _run(self, plan: Plan, metadata: dict[str, Any]) -> None:
        writer: DocumentWriter | None = None
        remove = self.microscope.interlock.listen(self._heard)
        try:
            if self.folder is not None:
                self.run_folder = _new_folder(self.folder)
                writer = DocumentWriter(self.run_folder)
            self._perform(plan, writer, metadata)
            self.outcome = {"": "completed", "stop": "stopped", "abort": "aborted"}[self._end]  # type: ignore[assignment]
        except BaseException as error:
            self._note(error)
        finally:
            remove()
            self._leave(writer)

    def _heard(self) -> None:
        """End the run if somebody else has stopped the beam for good: it would wait for it for ever."""
        if self.microscope.interlock.is_stopped and not self._end:
            self.stop()

    def _perform(self, plan: Plan, writer: DocumentWriter | None, metadata: dict[str, Any]) -> None:
        engine = self._engine = self._engine or RunEngine(
            {}, context_managers=[], during_task=DuringTask(), call_returns_result=True
        )
        receivers = [receive for receive in (writer, self._document) if receive is not None]
        tokens = [engine.subscribe(self._truthful(receive)) for receive in receivers]
        logging.getLogger("bluesky").setLevel(logging.CRITICAL)  # it reports every change of state and interruption
        metadata = {"stem_ae": __version__, "instrument": self.microscope.instrument.name, **metadata}
        call: Callable[[], Any] = lambda: engine(self._unless_ended(plan), **metadata)  # noqa: E731
        try:
            while True:
                try:
                    result = call()
                    self.result = getattr(result, "plan_result", None)
                    if not self._end and getattr(result, "exit_status", "success") != "success":
                        raise StemAeError("The run was broken off, and nobody had stopped it: start it again.")
                    return
                except RunEngineInterrupted:
                    if engine.state != "paused":
                        return
                call = self._next_call(engine)
        finally:
            for token in tokens:
                engine.unsubscribe(token)

    def _truthful(self, receive: Callable[[str, dict[str, Any]], object]) -> Callable[[str, dict[str, Any]], None]:
        """Let no document say that a run ended well while the beam was not read as off: a stopped plan would."""

        def told(name: str, document: dict[str, Any]) -> None:
            alarm = self.microscope.interlock.alarm
            if name == "stop" and alarm:
                document = {**document, "exit_status": "fail", "reason": alarm}
            receive(name, document)

        return told

    def _unless_ended(self, plan: Plan) -> Plan:
        """Keep a plan from starting that was ended before the engine could be told."""
        return None if self._end else (yield from plan)

    def _next_call(self, engine: RunEngine) -> Callable[[], Any]:
        self._enter("paused")
        command = self._commands.get()
        if command == "resume":
            self._enter("running")
            self.microscope.interlock.reopen(self)
            return engine.resume
        return engine.stop if command == "stop" else engine.abort

    def _enter(self, state: State) -> None:
        with self._lock:
            if not self._end:
                self.state = state
        self._changed()

    def _note(self, error: BaseException) -> None:
        if self._end and not _alarms(error):  # whatever an interrupted operation complained of was asked for
            self.outcome = "stopped" if self._end == "stop" else "aborted"
            return
        self.outcome = "failed"
        sentence = _sentence(error)
        if sentence is None:
            logging.getLogger(__name__).error("A run failed:\n%s", "".join(traceback.format_exception(error)))
            first = _chain(error)[-1]  # bluesky's own, around it, says only that something has failed
            sentence = f"The run failed unexpectedly ({type(first).__name__}: {first}); the log has the details."
        self.error = sentence

    def _leave(self, writer: DocumentWriter | None) -> None:
        sentences = [self.error, self.microscope.guard.complaint]
        try:
            self.microscope.secure()
        except BaseException as error:
            sentences.append(_sentence(error) or str(error))
        if alarm := self.microscope.interlock.alarm:
            self.outcome = "failed"
            sentences.insert(0, alarm)
        self.error = _together(sentences)
        if writer:
            writer.close()
        self.microscope.interlock.reopen()
        with self._lock, _instruments_lock:
            self.state = "idle"
            _instruments_in_use.discard(self.microscope.instrument.name)
        self._changed()


def _new_folder(root: pathlib.Path) -> pathlib.Path:
    name = f"{datetime.datetime.now():%Y-%m-%d_%H%M%S}"
    number = next(n for n in range(1, 1000) if not (root / f"{name}_{n:03d}").exists())
    return root / f"{name}_{number:03d}"


def _together(sentences: list[str]) -> str:
    """Return sentences in order, none of them twice."""
    kept: list[str] = []
    for sentence in sentences:
        if sentence and not any(sentence in other for other in kept):
            kept.append(sentence)
    return " ".join(kept)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and all that it came from or was raised over, the last one first."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        error = waiting.pop(0)
        if error is None or error in found:
            continue
        found.append(error)
        waiting += [error.__cause__, error.__context__]
        waiting += error.exceptions if isinstance(error, BaseExceptionGroup) else []
    return found


def _alarms(error: BaseException) -> list[str]:
    return [str(e) for e in _chain(error) if isinstance(e, BeamAlarm)]


def _sentence(error: BaseException) -> str | None:
    """Return an alarm if there was one, or the earliest error that was written for users; later ones follow from it."""
    written = [str(e) for e in _chain(error) if isinstance(e, StemAeError)]
    return next(iter(_alarms(error) or written[::-1]), None)
