"""The durable queue: submit, look, cancel, retry. What is done with the jobs is the worker's business.

The record of what is to be done is dbos' (SQLite, or PostgreSQL for several machines); everything about one job is in
its folder (:mod:`stem_ae.simulate.calculation`). No state is kept in memory, so that any process may die at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
import pathlib
import secrets
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import platformdirs

from stem_ae import processes
from stem_ae.errors import StemAeError
from stem_ae.jobs.config import Config
from stem_ae.jobs.executors import held
from stem_ae.simulate.calculation import Calculation, disk_error, has_room, write_atomically
from stem_ae.simulate.result import Result
from stem_ae.simulate.tasks import Task, to_dict

if TYPE_CHECKING:
    import ase
    from dbos import DBOSClient

State = Literal["waiting", "queued", "running", "finished", "failed", "cancelled"]
"""``waiting``: for another job to finish first."""

OVER: tuple[State, ...] = ("finished", "failed", "cancelled")

WORKFLOW = "calculate"
QUEUE = "calculations"
VERSION = "1"
"""Of the workflow: jobs that were queued by an earlier stem_ae are taken up as long as it stays the same."""

_FAR_AWAY = 10 * 365 * 86400.0
"""Seconds that a job which waits for another is put off; the worker calls it when that one is over."""

_STATES: dict[str, State] = {
    "DELAYED": "waiting", "ENQUEUED": "queued", "PENDING": "running", "SUCCESS": "finished", "ERROR": "failed",
    "CANCELLED": "cancelled", "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """What a list of jobs shows about one of them."""

    id: str
    title: str
    state: State
    fraction: float
    seconds_left: float | None
    created: datetime.datetime
    priority: int
    retries: int
    after: tuple[str, ...]
    error: str
    """Why it failed, or cannot go on at present, in one sentence; empty if all is well."""
    image: str
    """Key of the image that its structure comes from, as its provenance names it; empty if unknown."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of a queue. It holds no state: every look reads the record."""

    queue: Queue
    id: str

    @property
    def calculation(self) -> Calculation:
        """Its folder: input, progress, log, result."""
        return Calculation(self.queue.root / "jobs" / self.id)

    @property
    def state(self) -> State:
        """Where it is now."""
        return self.queue.row(self.id).state

    @property
    def progress(self) -> dict[str, Any]:
        """The newest step: ``step``, ``fraction`` (0 to 1), ``energy`` (eV), ``fmax`` (eV/Å), ``seconds_left``."""
        return self.calculation.progress()

    @property
    def error(self) -> str:
        """Why it failed, in one sentence; empty if it did not."""
        return self.queue.row(self.id).error

    def cancel(self) -> None:
        """Take it out of the queue, and stop its process if it runs."""
        self.queue.cancel(self.id)

    def retry(self) -> None:
        """Queue it again after it failed or was cancelled; it goes on from its checkpoint."""
        self.queue.retry(self.id)

    def wait(self, timeout: float | None = None) -> State:
        """Wait until it is over and return its last state.

        Raises
        ------
        StemAeError
            If it is not over after ``timeout`` seconds, or nobody works on the queue.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (state := self.state) not in OVER:
            if deadline is not None and time.monotonic() > deadline:
                idle = "" if self.queue.worker_alive() else " No worker is running: start one with 'stem-ae worker'."
                raise StemAeError(f"Job {self.id} is still {state} after {timeout:g} s.{idle}")
            time.sleep(0.1)
        return state

    def result(self) -> Result:
        """Return what came out.

        Raises
        ------
        StemAeError
            With the cause if it failed, or if it is not over.
        """
        row = self.queue.row(self.id)
        if row.state != "finished":
            raise StemAeError(f"Job {self.id} is {row.state}" + (f": {row.error}" if row.error else "."))
        return Result.read(self.calculation.folder)


class Queue:
    """A durable queue in a folder. Make one with :meth:`open`."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.config = Config.read(root)

    @classmethod
    def open(cls, path: str | pathlib.Path | None = None) -> Queue:
        """Open the user's queue, or the one in a folder, which is made if it does not exist.

        Raises
        ------
        StemAeError
            If the folder cannot be used.
        """
        root = pathlib.Path(path) if path else pathlib.Path(platformdirs.user_data_dir("stem_ae")) / "queue"
        root = root.absolute()
        try:
            (root / "jobs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, root) from error
        return cls(root)

    @property
    def database(self) -> str:
        """Address of the record, for dbos."""
        if self.config.database:
            return self.config.database
        from stem_ae.jobs import sqlite

        return sqlite.address(self._file)

    @property
    def _file(self) -> pathlib.Path:
        return self.root / "queue.sqlite"

    @functools.cached_property
    def _client(self) -> DBOSClient:
        from dbos import DBOSClient, DBOSPortableJSONSerializer, run_dbos_database_migrations

        logging.getLogger("dbos").setLevel(logging.CRITICAL)
        try:
            from filelock import FileLock

            with FileLock(self.root / "migration.lock"):
                self._prepare(run_dbos_database_migrations)
            # JSON, because dbos' own choice is pickle, which executes what it reads.
            return DBOSClient(system_database_url=self.database, serializer=DBOSPortableJSONSerializer())
        except StemAeError:
            raise
        except Exception as error:
            raise StemAeError(
                f"The queue's record {self.config.database or self._file} cannot be opened ({type(error).__name__}): "
                "check that the disk is not full and the database reachable."
            ) from error

    def _prepare(self, migrate: Callable[..., None]) -> None:
        """Make the record, or bring it up to date."""
        migrate(system_database_url=self.database)
        if self.config.database:
            return
        with contextlib.closing(sqlite3.connect(self._file)) as connection:
            # Readers do not wait for writers then, and a commit waits for the disk once instead of three times.
            connection.execute("PRAGMA journal_mode=WAL")

    # --- submit ---------------------------------------------------------------------------------------------------

    def submit(
        self,
        task: Task,
        atoms: ase.Atoms | None = None,
        *,
        title: str = "",
        priority: int = 10,
        retries: int = 2,
        after: Job | Sequence[Job] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> Job:
        """Queue a task, durably: once this returns, the job survives everything but the disk.

        Parameters
        ----------
        task : Task
            Such as ``simulate.Relax()``.
        atoms : ase.Atoms, optional
            The structure; by default the final one of the first job in ``after``.
        title : str
            What lists show; made up if empty.
        priority : int
            Small numbers first, from 1.
        retries : int
            How often it is started again when its process dies without a reason.
        after : Job or sequence of Job
            Jobs that must finish first. If one fails, this one fails too.
        provenance : mapping, optional
            Where the structure comes from, besides what it carries itself.

        Raises
        ------
        StemAeError
            If the task cannot work, or the record cannot be written.
        """
        parents = [after] if isinstance(after, Job) else list(after)
        if atoms is not None or not parents:
            task.check(atoms)
        if not 1 <= priority <= 2**31 - 1:
            raise StemAeError(f"The priority {priority} is not possible: give a number from 1 (first) upwards.")
        job = Job(self, f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}")
        origin = {**_carried(atoms, parents), **(provenance or {})}
        Calculation.create(job.calculation.folder, to_dict(task), atoms, origin)
        formula = atoms.get_chemical_formula() if atoms is not None else ""
        options: dict[str, Any] = {
            "queue_name": QUEUE, "workflow_name": WORKFLOW, "workflow_id": job.id, "priority": priority,
            "app_version": VERSION,
            "attributes": {
                "title": title or f"{task.kind} {formula}".strip(), "retries": retries,
                "after": [parent.id for parent in parents], "image": origin.get("image", ""),
            },
        }  # fmt: skip
        if parents:
            options["delay_seconds"] = _FAR_AWAY
        try:
            self._client.enqueue(options, job.id)  # type: ignore[arg-type]
        except Exception as error:
            raise StemAeError(
                f"The job could not be written to the queue's record ({_first_line(error)}): check that the disk is "
                "not full, then submit it again."
            ) from error
        return job

    def release(self) -> list[Row]:
        """Let those waiting jobs go whose parents are over, and return the list: the worker does this all the time.

        A parent that failed makes its children fail, when the worker comes to them.
        """
        rows = self.rows()
        states = {row.id: row.state for row in rows}
        for row in rows:
            if row.state != "waiting":
                continue
            if any(states.get(parent) in ("failed", "cancelled") for parent in row.after) or all(
                states.get(parent) == "finished" for parent in row.after
            ):
                self._client.set_workflow_delay(row.id, delay_seconds=0.0)
        return rows

    # --- look -----------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        """Return a job by its number, or by the end of it if that is unique.

        Raises
        ------
        StemAeError
            If there is none, or more than one.
        """
        if (self.root / "jobs" / job_id / "input.json").exists():
            return Job(self, job_id)
        found = [path.name for path in (self.root / "jobs").iterdir() if path.name.endswith(job_id)]
        if len(found) != 1:
            raise StemAeError(f"There is no job {job_id!r}: 'stem-ae jobs list' shows them.")
        return Job(self, found[0])

    def jobs(self) -> list[Job]:
        """Return all jobs, newest first."""
        return [Job(self, row.id) for row in self.rows()]

    def rows(self) -> list[Row]:
        """Return what a list shows, newest first. It reads files and the record: not for a user interface's thread."""
        listed = self._client.list_workflows(name=WORKFLOW, sort_desc=True, load_input=False)
        halted = self._halted()
        return [self._row(status, halted) for status in listed]

    def _halted(self) -> str:
        """Return why nothing can go on at present, in one sentence, or nothing."""
        full = f"The disk that holds {self.root} is full: free some space, and it goes on where it was."
        return "" if has_room(self.root) else full

    def row(self, job_id: str) -> Row:
        """Return the same for one job.

        Raises
        ------
        StemAeError
            If there is none.
        """
        listed = self._client.list_workflows(workflow_ids=[job_id], load_input=False)
        if not listed:
            raise StemAeError(f"There is no job {job_id!r}: 'stem-ae jobs list' shows them.")
        return self._row(listed[0], self._halted())

    def _row(self, status: Any, halted: str) -> Row:
        state = _STATES[status.status]
        error = halted if state == "running" else ""
        outcome = status.output if isinstance(status.output, dict) else {}
        if state == "finished" and outcome.get("error"):
            state, error = "failed", outcome["error"]
        elif state == "failed":
            error = f"The worker failed: {_first_line(status.error)}"
        progress = Calculation(self.root / "jobs" / status.workflow_id).progress() if state == "running" else {}
        attributes = status.attributes or {}
        return Row(
            status.workflow_id, attributes.get("title", ""), state,
            1.0 if state == "finished" else float(progress.get("fraction", 0.0)), progress.get("seconds_left"),
            datetime.datetime.fromtimestamp(status.created_at / 1000), status.priority or 0,
            attributes.get("retries", 0), tuple(attributes.get("after", ())), error, attributes.get("image", ""),
        )  # fmt: skip

    # --- change ---------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        """Take a job out of the queue, and stop its process if it runs.

        Raises
        ------
        StemAeError
            If there is no such job, or it is over.
        """
        row = self.row(job_id)
        if row.state in OVER:
            raise StemAeError(f"Job {job_id} is {row.state} already.")
        folder = self.root / "jobs" / job_id
        # The mark comes first: a worker that is just starting the process sees it.
        write_atomically(folder / "cancel", b"")
        self._client.cancel_workflow(job_id)
        self.config.make_executor().stop(folder)

    def retry(self, job_id: str) -> None:
        """Queue a failed or cancelled job again; it goes on from its checkpoint.

        Raises
        ------
        StemAeError
            If there is no such job, or it is neither.
        """
        row = self.row(job_id)
        if row.state not in ("failed", "cancelled"):
            raise StemAeError(f"Job {job_id} is {row.state}: only failed and cancelled jobs can be tried again.")
        folder = self.root / "jobs" / job_id
        for name in ("cancel", "error.json", "attempts"):
            (folder / name).unlink(missing_ok=True)
        self._client.rewind_workflow(job_id, application_version=VERSION, queue_name=QUEUE)

    def take_over(self, machine: str) -> list[str]:
        """Let other machines have the jobs that a machine which is gone was working on, and return their numbers.

        Only for a queue of several machines: a worker takes up by itself what an earlier one on its machine left. Where
        the shared disk knows locks, a calculation that still runs there is waited for.

        Raises
        ------
        StemAeError
            If a worker on that machine is still at work.
        """
        if held(self.root / "workers" / machine):
            raise StemAeError(f"The worker on {machine} is at work: end it first, or leave its jobs to it.")
        listed = self._client.list_workflows(
            name=WORKFLOW, executor_id=machine, status="PENDING", load_input=False, load_output=False
        )
        left = [status.workflow_id for status in listed]
        self._client.resume_workflows(left, queue_name=QUEUE)
        return left

    # --- the worker -----------------------------------------------------------------------------------------------

    def worker_alive(self) -> bool:
        """Say whether a worker on this machine serves the queue."""
        return held(self.worker_folder)

    @property
    def worker_folder(self) -> pathlib.Path:
        """Where this machine's worker keeps its lock and its log."""
        return self.root / "workers" / socket.gethostname()

    def start_worker(self) -> None:
        """Start a worker that outlives this program, if there is none; it leaves when it has had nothing to do."""
        if self.worker_alive():
            return
        self.worker_folder.mkdir(parents=True, exist_ok=True)
        with (self.worker_folder / "log.txt").open("ab") as log:
            subprocess.Popen(
                processes.command("stem_ae", "worker", "--queue", str(self.root), "--idle", "600"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=processes.environment(),
                **processes.detached(),
            )  # fmt: skip


def _carried(atoms: ase.Atoms | None, parents: Sequence[Job]) -> dict[str, Any]:
    """Return what a structure, or the job that will give it, says about where it comes from."""
    if atoms is not None:
        return dict(atoms.info.get("stem_ae", {}).get("provenance", {}))
    known = parents[0].calculation.input["provenance"] if parents else {}
    return {name: value for name, value in known.items() if name != "hashes"}


def _first_line(error: object) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
