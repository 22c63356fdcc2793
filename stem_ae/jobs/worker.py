"""The worker: takes jobs from the queue, starts their processes, and tells how they ended.

It may be killed at any time. Calculations go on without it; the next worker finds their folders locked, waits for them,
and so nothing is started twice.
"""

from __future__ import annotations

import os
import pathlib
import time

from stem_ae.errors import StemAeError
from stem_ae.jobs.executors import Executor
from stem_ae.jobs.queue import QUEUE, VERSION, WORKFLOW, Queue
from stem_ae.simulate.calculation import Calculation, has_room, write_atomically

_LOOK_EVERY = 0.05
"""Seconds between looks at a running process."""

_LOOK_FOR_ROOM_EVERY = 1.0
"""Seconds between looks at a full disk."""

_RECOVERIES = 1_000_000
"""How often dbos may take up a job again after its worker died: how often its own process may die is ``retries``."""


def supervise(queue: Queue, executor: Executor, job_id: str) -> dict[str, str]:
    """See one job through and return its outcome: ``{}`` if it finished, ``{"error": sentence}`` if not.

    Doing this again from the start, at any point and after any crash, comes to the same end.
    """
    folder = queue.root / "jobs" / job_id
    calculation = Calculation(folder)
    try:
        row = queue.row(job_id)
        _inherit(queue, calculation, row.after)
        while not calculation.finished and not (error := calculation.error()):
            if (folder / "cancel").exists():
                executor.stop(folder)
                return {"error": "It was cancelled."}
            if not has_room(folder):
                time.sleep(_LOOK_FOR_ROOM_EVERY)
                continue
            started = executor.start(folder)
            while executor.alive(folder):
                time.sleep(_LOOK_EVERY)
                if (folder / "cancel").exists():
                    executor.stop(folder)
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
    if not (parent.calculation.folder / "result.extxyz").exists():
        return
    atoms = parent.result().atoms
    origin = {**parent.calculation.input["provenance"], "parent": parent.id}
    Calculation.create(calculation.folder, content["task"], atoms, {**origin, **content["provenance"]})


def _count(folder: pathlib.Path) -> int:
    """Count one more death of the job's process."""
    path = folder / "attempts"
    attempts = (int(path.read_text()) if path.exists() else 0) + 1
    write_atomically(path, str(attempts).encode())
    return attempts


def serve(queue: Queue, idle: float | None = None, slots: int | None = None) -> None:
    """Work until told to stop, or until there has been nothing to do for ``idle`` seconds.

    Raises
    ------
    StemAeError
        If this machine has a worker for this queue already.
    """
    from filelock import FileLock, Timeout

    queue.worker_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(queue.worker_folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StemAeError(f"Another worker on this machine serves {queue.root} already.") from None
    try:
        write_atomically(queue.worker_folder / "pid", str(os.getpid()).encode())
        _serve(queue, idle, slots)
    finally:
        lock.release()


def _serve(queue: Queue, idle: float | None, slots: int | None) -> None:
    from dbos import DBOS, DBOSPortableJSONSerializer

    executor = queue.config.make_executor()
    slots = slots or queue.config.slots
    queue.rows()  # makes the record if it is new
    # The same name after a restart: dbos gives this worker back what it was working on.
    DBOS(
        config={
            "name": "stem-ae", "system_database_url": queue.database, "executor_id": queue.worker_folder.name,
            "application_version": VERSION, "serializer": DBOSPortableJSONSerializer(), "console_log_level": "CRITICAL",
            "log_level": "CRITICAL", "max_executor_threads": slots + 4,
        }
    )  # fmt: skip

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=_RECOVERIES)
    def calculate(job_id: str) -> dict[str, str]:
        return supervise(queue, executor, job_id)

    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=slots, polling_interval_sec=0.2)
    try:
        _until_idle(queue, idle)
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=0)


def _until_idle(queue: Queue, idle: float | None) -> None:
    """Stay, and call waiting jobs whose parents are over."""
    busy = time.monotonic()
    while idle is None or time.monotonic() - busy < idle:
        if any(row.state in ("queued", "running") for row in queue.release()):
            busy = time.monotonic()
        time.sleep(0.5)
