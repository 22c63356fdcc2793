"""The worker: takes jobs from the queue, starts their processes, and tells how they ended.

It may be killed at any time. Calculations go on without it; the next worker finds their folders locked, waits for them,
and so nothing is started twice.

While there is nothing to do, it only looks whether the record has changed; dbos runs while there is.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.jobs import check
from stem_ae.jobs.executors import Executor
from stem_ae.jobs.queue import CANCELLED, Queue
from stem_ae.jobs.record import QUEUE, VERSION, WORKFLOW, first_line, is_job_number, load_dbos
from stem_ae.simulate.calculation import Calculation, has_room, write_atomically
from stem_ae.terminal import printable

_LOOK_EVERY = 0.05
"""Seconds between looks at a running process."""

_LOOK_FOR_WORK_EVERY = 0.2
"""Seconds between looks at whether the record has changed."""

_SHARED_EVERY = 1.0
"""Seconds between looks into a record whose changes cannot be seen from outside."""

_LOOK_FOR_ROOM_EVERY = 1.0
"""Seconds between looks at a full disk, and between tries after something failed."""

_REST_AFTER = 20.0
"""Seconds without work after which dbos, which polls the record, is stopped."""

_FORGOTTEN_AFTER = 15.0
"""Seconds after which a job is queued again that the record calls running but that does not run here."""

_SIGN_EVERY = 5.0
_TIDY_EVERY = 3600.0

_RECOVERIES = 1_000_000
"""How often dbos may take up a job again after its worker died: how often its own process may die is ``retries``."""


def supervise(queue: Queue, executor: Executor, job_id: str) -> dict[str, str]:
    """See one job through and return its outcome: ``{}`` if it finished, ``{"error": sentence}`` if not.

    Doing this again from the start, at any point and after any crash, comes to the same end.
    """
    if not is_job_number(job_id):
        return {"error": "It is not one of this queue's jobs."}
    folder = queue.root / "jobs" / job_id
    calculation = Calculation(folder)
    error = ""
    try:
        row = queue.row(job_id)
        _ = calculation.input  # refuses what is lost or damaged
        calculation.mend()
        _inherit(queue, calculation, row.after)
        while not calculation.finished and not (error := calculation.error()):
            if not folder.is_dir():
                return {"error": f"Its folder {folder} was deleted or moved: submit it again."}
            if (folder / "cancel").exists():
                executor.stop(folder)
                return {"error": CANCELLED}
            if not has_room(folder):
                time.sleep(_LOOK_FOR_ROOM_EVERY)
                continue
            started = executor.start(folder)
            while executor.alive(folder):
                time.sleep(_LOOK_EVERY)
                if (folder / "cancel").exists():
                    executor.stop(folder)
            if not folder.is_dir():
                continue
            over = calculation.finished or calculation.error() or (folder / "cancel").exists()
            if not started or over or not has_room(folder):
                # What an earlier worker started may have died with the machine, and a full disk is nobody's fault: only
                # our own deaths are counted.
                continue
            attempts = _count(folder)
            if attempts > row.retries:
                error = (
                    f"Its process died {attempts} times without saying why: perhaps there is not enough memory, or "
                    "disk; its log may tell."
                )
                break
        return {"error": error} if not calculation.finished else {}
    except (StemAeError, OSError) as failure:
        return {"error": str(failure)}


def _inherit(queue: Queue, calculation: Calculation, parents: tuple[str, ...]) -> None:
    """Give a job without a structure of its own the final one of the job it waited for.

    Raises
    ------
    StemAeError
        If one of those jobs did not finish.
    """
    for row in map(queue.row, parents):
        if row.state != "finished":
            raise StemAeError(f"It needs job {row.id} ({row.title}), which is {row.state}: retry that one first.")
    content = calculation.input
    if not parents or content["structure"] is not None or calculation.finished:
        return
    parent = queue.job(parents[0])
    result = parent.result()
    if not (result.folder / "result.extxyz").exists():
        return
    origin = {**parent.calculation.input["provenance"], "parent": parent.id}
    Calculation.create(
        calculation.folder, content["task"], result.atoms, {**origin, **content["provenance"]}, content.get("job")
    )


def _count(folder: pathlib.Path) -> int:
    """Count one more death of the job's process."""
    path = folder / "attempts"
    try:
        before = int(path.read_text())
    except (OSError, ValueError):
        before = 0
    write_atomically(path, str(before + 1).encode())
    return before + 1


def serve(queue: Queue, idle: float | None = None, slots: int | None = None) -> None:
    """Work until told to stop, or until there has been nothing to do for ``idle`` seconds.

    A full disk, or a database that does not answer, is waited for.

    Raises
    ------
    StemAeError
        If this machine has a worker for this queue already, or the queue's folder is gone.
    """
    from filelock import FileLock, Timeout

    slots = checks.whole(queue.config.slots if slots is None else slots, "The number of slots", 1, 10_000)
    idle = math.inf if idle is None else checks.budget(idle, "The time without work")
    while not _make_folder(queue):
        time.sleep(_LOOK_FOR_ROOM_EVERY)
    lock = FileLock(queue.worker_folder / "lock")
    try:
        lock.acquire(timeout=1.0, poll_interval=0.05)  # a process that asks whether it is held takes it for a moment
    except Timeout:
        raise StemAeError(f"Another worker on this machine serves {queue.root} already.") from None
    with lock:
        (queue.worker_folder / "pid").write_text(str(os.getpid()))
        _Worker(queue, slots).work(idle)


def _make_folder(queue: Queue) -> bool:
    """Make the worker's folder with what is in it, and say whether the disk has had room for it."""
    if not queue.root.is_dir():
        raise StemAeError(f"The queue's folder {queue.root} is gone: the worker cannot serve it.")
    if not has_room(queue.root):
        return False
    try:
        queue.worker_folder.mkdir(parents=True, exist_ok=True)
        (queue.worker_folder / "lock").touch()
    except OSError as error:
        raise StemAeError(
            f"The worker cannot write to {queue.worker_folder} ({error.strerror}): check that it is yours."
        ) from error
    return True


class _Worker:
    """Works for one queue, in this process."""

    def __init__(self, queue: Queue, slots: int) -> None:
        self._queue, self._slots = queue, slots
        self._executor = queue.config.make_executor()
        self._dbos = load_dbos()
        self._mine: dict[str, threading.Lock] = {}
        """Jobs that are being carried out, each by one thread at a time."""
        self._lock = threading.Lock()
        self._release_at = -math.inf
        self._complaint = ""
        self._has_seen_record = False
        self._tidied = -math.inf
        self._missing: dict[str, float] = {}
        """Jobs that the record calls running but that do not run here, and since when."""

        def calculate(_: str) -> dict[str, str]:
            # The row's key names the job, not its content.
            return self._see_through(str(self._dbos.DBOS.workflow_id))

        self._dbos.DBOS.workflow(name=WORKFLOW, max_recovery_attempts=_RECOVERIES)(calculate)

    def work(self, idle: float) -> None:
        """Work until there has been nothing to do for so many seconds."""
        threading.Thread(target=self._give_signs, name="signs of life", daemon=True).start()
        busy = time.monotonic()
        while time.monotonic() - busy < idle:
            try:
                if self._has_work():
                    with self._running():
                        self._until_done(min(_REST_AFTER, idle))
                    busy = time.monotonic() - min(_REST_AFTER, idle)
                self._tidy()
                self._rest(busy + idle)
                self._complaint = ""
            except Exception as error:
                self._check_in_place()
                self._complain(error)
                busy = time.monotonic()  # there may be work that cannot be seen
                time.sleep(_LOOK_FOR_ROOM_EVERY)

    def _see_through(self, job_id: str) -> dict[str, str]:
        with self._lock:
            mine = self._mine.setdefault(job_id, threading.Lock())
        with mine:  # dbos hands a job out again when it was put to rest and woken while the job ran
            try:
                return supervise(self._queue, self._executor, job_id)
            except Exception as error:  # whatever it is, it concerns this job only
                return {"error": f"The worker failed: {type(error).__name__}: {first_line(error)}"}
            finally:
                with self._lock:
                    self._mine.pop(job_id, None)

    # --- with dbos ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Have dbos hand out jobs until this is left."""
        dbos = self._dbos
        # The same name after a restart: dbos gives this worker back what it was working on.
        dbos.DBOS(
            config={
                "name": "stem-ae", "system_database_url": self._queue.record.address,
                "executor_id": self._queue.worker_folder.name, "application_version": VERSION,
                "serializer": dbos.DBOSPortableJSONSerializer(), "console_log_level": "CRITICAL",
                "log_level": "CRITICAL", "max_executor_threads": self._slots + 4,
            }
        )  # fmt: skip
        try:
            logging.getLogger("dbos").setLevel(logging.CRITICAL)
            dbos.DBOS.launch()
            dbos.DBOS.register_queue(QUEUE, worker_concurrency=self._slots, polling_interval_sec=0.2)
            yield
        finally:
            dbos.DBOS.destroy(workflow_completion_timeout_sec=0)

    def _until_done(self, pause: float) -> None:
        """Stay, and release waiting jobs whose parents are over, until there has been no work for some seconds."""
        busy = time.monotonic()
        while time.monotonic() - busy < pause:
            self._check_in_place()
            if self._has_work():
                busy = time.monotonic()
            self._take_up_forgotten()
            self._tidy()
            time.sleep(0.5)

    def _has_work(self) -> bool:
        """Return whether there is work, for this machine or any free one; releases jobs that have waited."""
        called = self._release() if self._queue.record.exists else []
        with self._lock:
            if self._mine or called:
                return True
        if not self._queue.record.exists:
            self._queue.record.open()
        record, me = self._queue.record, self._queue.worker_folder.name
        return bool(
            record.entries(statuses=["ENQUEUED"], newest=1)
            or any(entry.executor == me for entry in record.entries(statuses=["PENDING"]))
        )

    def _release(self) -> list[str]:
        """Release waiting jobs whose parents are over; where thousands wait, less often."""
        start = time.monotonic()
        if start < self._release_at:
            return []
        called = self._queue.release()
        self._release_at = time.monotonic() + 10 * (time.monotonic() - start)
        return called

    def _take_up_forgotten(self) -> None:
        """Queue jobs again that the record calls running on this machine but that do not run: their end is missing."""
        me = self._queue.worker_folder.name
        pending = {e.id for e in self._queue.record.entries(statuses=["PENDING"]) if e.executor == me}
        with self._lock:
            pending -= set(self._mine)
        now = time.monotonic()
        self._missing = {job: self._missing.get(job, now) for job in pending}
        forgotten = [job for job, since in self._missing.items() if now - since > _FORGOTTEN_AFTER]
        if forgotten:
            self._queue.record.resume(forgotten)

    # --- without --------------------------------------------------------------------------------------------------

    def _rest(self, until: float) -> None:
        """Wait until the record has changed, or a time has come."""
        until = min(until, time.monotonic() + 60.0)
        before = self._queue.record.stamp()
        if before is None:
            time.sleep(max(min(_SHARED_EVERY, until - time.monotonic()), 0.0))
            return
        while time.monotonic() < until and self._queue.record.stamp() == before:
            time.sleep(_LOOK_FOR_WORK_EVERY)

    def _tidy(self) -> None:
        """Remove what submissions that were killed left behind."""
        if time.monotonic() - self._tidied > _TIDY_EVERY:
            self._tidied = time.monotonic()
            check.remove_orphans(self._queue)

    def _give_signs(self) -> None:
        """Touch a file regularly, so that waiting clients see that this worker is alive."""
        path = self._queue.worker_folder / "alive"
        while True:
            with contextlib.suppress(OSError):
                path.touch()
            time.sleep(_SIGN_EVERY)

    def _check_in_place(self) -> None:
        if not (self._queue.worker_folder / "lock").exists():
            raise StemAeError(f"The queue's folder {self._queue.root} was deleted or moved: the worker ends.")
        if self._has_seen_record and not self._queue.record.exists:
            raise StemAeError(
                f"The queue's record {self._queue.record} was deleted: the worker ends. 'stem-ae jobs check --queue "
                f"{self._queue.root}' rebuilds it."
            )
        self._has_seen_record = self._queue.record.exists

    def _complain(self, error: Exception) -> None:
        """Report each error once."""
        sentence = str(error) if isinstance(error, StemAeError) else f"{type(error).__name__}: {first_line(error)}"
        if sentence != self._complaint:
            self._complaint = sentence
            print(f"stem-ae: {printable(sentence)} The worker waits.", file=sys.stderr, flush=True)
