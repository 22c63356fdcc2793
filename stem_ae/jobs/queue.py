"""The durable queue: submit, look, cancel, retry. What is done with the jobs is the worker's business.

What is to be done stands in the record (:mod:`stem_ae.jobs.record`); everything about one job is in its folder
(:mod:`stem_ae.simulate.calculation`). No state is kept in memory, so that any process may die at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stem_ae import checks, folders, processes
from stem_ae.errors import StemAeError
from stem_ae.jobs.config import Config
from stem_ae.jobs.executors import held, is_worked_on
from stem_ae.jobs.record import ACTIVE, PICKLED, Entry, Record, first_line, is_job_number, read_object, read_objects
from stem_ae.simulate.calculation import Calculation, disk_error, has_room, set_aside, write_atomically
from stem_ae.simulate.result import Result
from stem_ae.simulate.tasks import Task, to_dict
from stem_ae.terminal import printable

if TYPE_CHECKING:
    import ase

State = Literal["waiting", "queued", "running", "finished", "failed", "cancelled"]
"""``waiting``: for another job to finish first."""

OVER: tuple[State, ...] = ("finished", "failed", "cancelled")

SUBMITTED = "submitted"
"""File in a job's folder: its submission was acknowledged. Without it, and without a row, nobody waits for the job."""

CANCELLED = "It was cancelled."

KEPT_AT_A_START = (
    "input.json", "input.copy.json", "lock", "log.txt", "process.json", "alive", "cancel", SUBMITTED, "set_aside",
)  # fmt: skip
"""Files that stay in a job's folder when it starts again."""

_STATES: dict[str, State] = {
    "DELAYED": "waiting", "ENQUEUED": "queued", "PENDING": "running", "SUCCESS": "finished", "ERROR": "failed",
    "CANCELLED": "cancelled", "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}  # fmt: skip

_WITHOUT_WORKER_S = 20.0
"""Seconds to wait without a worker: one may be starting."""

_SILENT_WORKER_S = 90.0
"""Seconds without a sign of life after which a worker counts as hung; it gives one every few."""


class Row(NamedTuple):
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

    def retry(self, from_start: bool = False) -> None:
        """Queue it again after it failed or was cancelled, or if its result is damaged; see :meth:`Queue.retry`."""
        self.queue.retry(self.id, from_start=from_start)

    def wait(self, timeout: float | None = None) -> State:
        """Wait until it is over and return its last state.

        Raises
        ------
        StemAeError
            If it is not over after ``timeout`` seconds, or nobody works on the queue: then nothing is lost, and there
            can be another wait once a worker runs.
        """
        if timeout is not None:
            checks.number(timeout, "The timeout", least=0.0, unit="s")
        deadline = None if timeout is None else time.monotonic() + timeout
        workers = _Workers(self.queue)
        while (state := self.state) not in OVER:
            trouble = workers.trouble()
            if deadline is not None and time.monotonic() > deadline:
                idle = "" if self.queue.worker_alive() else " No worker is running: start one with 'stem-ae worker'."
                raise StemAeError(f"Job {self.id} is still {state} after {timeout:g} s.{idle}")
            if trouble:
                raise StemAeError(f"Job {self.id} is still {state}, and {trouble}. Nothing is lost.")
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


class _Workers:
    """Watches the workers of a queue for a waiting client."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._signs: object = None
        self._heard = self._looked = time.monotonic()

    def trouble(self) -> str:
        """Return why waiting is useless, as a clause; empty while it is not."""
        now = time.monotonic()
        if now - self._looked < 0.5:
            return ""
        self._looked = now
        workers = {path: held(path) for path in self._queue.root.glob("workers/*")}
        signs = [(path, _touched(path / "alive")) for path in workers]
        if signs != self._signs:
            self._signs, self._heard = signs, now
        silent = now - self._heard
        at_work = next((path for path, is_held in workers.items() if is_held), None)
        if at_work is None and silent > _WITHOUT_WORKER_S:
            log = self._queue.worker_folder / "log.txt"
            return f"no worker is running: start one with 'stem-ae worker' and wait again (the last one's log: {log})"
        if at_work is not None and silent > _SILENT_WORKER_S:
            pid = _text(at_work / "pid")
            return f"the worker on {at_work.name} (process {pid}) does not answer: end it and start another one"
        return ""


class Queue:
    """A durable queue in a folder. Make one with :meth:`open`."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.config = Config.read(root)
        self.record = Record(root, self.config.database)

    @classmethod
    def open(cls, path: str | pathlib.Path | None = None, create: bool = True) -> Queue:
        """Open the user's queue, or the one in a folder.

        Parameters
        ----------
        path : path, optional
            The folder; by default as the environment variable ``STEM_AE_QUEUE`` says, or among the user's data.
        create : bool
            Whether to make it if it does not exist.

        Raises
        ------
        StemAeError
            If the folder cannot be used.
        """
        root = pathlib.Path(path) if path else folders.folder("queue")
        root = root.absolute()
        if not create and path and not root.is_dir():
            raise StemAeError(f"There is no queue in {root}: the first job that is submitted there makes one.")
        try:
            if not (root / "jobs").is_dir():
                (root / "jobs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, root) from error
        return cls(root)

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
        self._check_parents(parents)
        priority = checks.whole(priority, "The priority", 1, 2**31 - 1)
        retries = checks.whole(retries, "The number of retries", 0, 1000)
        self.record.open()
        job = Job(self, f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}")
        origin = {**_carried(atoms, parents), **(provenance or {})}
        formula = atoms.get_chemical_formula() if atoms is not None else ""
        attributes = {
            "title": printable(title or f"{task.kind} {formula}", in_one_line=True), "retries": retries,
            "after": [parent.id for parent in parents], "image": str(origin.get("image", "")),
        }  # fmt: skip
        try:
            job.calculation.folder.mkdir()
        except OSError as error:
            raise disk_error(error, self.root) from error
        noted = {"priority": priority, "created": round(time.time() * 1000), **attributes}
        Calculation.create(job.calculation.folder, to_dict(task), atoms, origin, noted)
        self.record.add(job.id, priority, attributes, waits=bool(parents))
        with contextlib.suppress(OSError):  # the record has it, and that counts
            (job.calculation.folder / SUBMITTED).touch()
        return job

    def _check_parents(self, parents: Sequence[Job]) -> None:
        for parent in parents:
            if parent.queue.root != self.root and not _same(parent.queue.root, self.root):
                raise StemAeError(
                    f"Job {parent.id} is in another queue ({parent.queue.root}): a job can only wait for one of its "
                    "own queue."
                )
            self.row(parent.id)  # refuses what does not exist

    def release(self) -> list[str]:
        """Release waiting jobs whose parents are over, and return which; the worker does this regularly.

        A parent that failed makes its children fail, when the worker comes to them.
        """
        waiting = self._rows(self.record.entries(statuses=["DELAYED"]))
        parents = sorted({parent for row in waiting for parent in row.after})
        states = {row.id: row.state for row in self._rows(self.record.entries(parents))} if parents else {}
        called = []
        for row in waiting:
            its = [states.get(parent) for parent in row.after]
            # A parent that is no longer in the record cannot finish either: the worker reports it with this job.
            if any(state in ("failed", "cancelled", None) for state in its) or all(s == "finished" for s in its):
                self.record.call(row.id)
                called.append(row.id)
        return called

    # --- look -----------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        """Return a job by its number, or by the end of it if that is unique.

        Raises
        ------
        StemAeError
            If there is none, or more than one.
        """
        if is_job_number(job_id) and (self.root / "jobs" / job_id).is_dir():
            return Job(self, job_id)
        names = (path.name for path in (self.root / "jobs").iterdir())
        found = [name for name in names if job_id and name.endswith(job_id) and is_job_number(name)]
        if not found:
            raise _unknown(job_id)
        if len(found) > 1:
            raise StemAeError(f"{len(found)} jobs end with {job_id!r}: give more of the number.")
        return Job(self, found[0])

    def jobs(self) -> list[Job]:
        """Return all jobs, newest first."""
        return [Job(self, entry.id) for entry in self.record.entries()]

    def rows(self, newest: int | None = None) -> list[Row]:
        """Return what a list shows, newest first. It reads files and the record: not for a user interface's thread.

        Parameters
        ----------
        newest : int, optional
            How many at most; all by default.

        Raises
        ------
        StemAeError
            If the record cannot be read.
        """
        return self._rows(self.record.entries(newest=newest))

    def counts(self) -> tuple[int, int]:
        """Return how many jobs there are, and how many of them are not over."""
        numbers = self.record.counts()
        return sum(numbers.values()), sum(numbers.get(status, 0) for status in ACTIVE)

    def _halted(self) -> str:
        """Return why nothing can go on at present, in one sentence, or nothing."""
        full = f"The disk that holds {self.root} is full: free some space, and it goes on where it was."
        try:
            return "" if has_room(self.root) else full
        except OSError:  # it is gone; reading the record reports that
            return ""

    def row(self, job_id: str) -> Row:
        """Return the same for one job.

        Raises
        ------
        StemAeError
            If there is none.
        """
        return self._rows([self._entry(job_id)])[0]

    def _entry(self, job_id: str) -> Entry:
        found = self.record.entries([job_id])
        if not found:
            raise _unknown(job_id)
        return found[0]

    def _rows(self, entries: Sequence[Entry]) -> list[Row]:
        halted = self._halted()
        rows = []
        for k in range(0, len(entries), 1000):  # in parts: Python's garbage collection then runs less often
            part = entries[k : k + 1000]
            told = read_objects([entry.attributes for entry in part])
            rows += [self._row(entry, about, halted) for entry, about in zip(part, told, strict=True)]
        return rows

    def _row(self, entry: Entry, told: dict[str, Any], halted: str) -> Row:
        state = _STATES.get(entry.status, "failed")
        error, progress = "", {}
        if not entry.is_read:
            state, error = "failed", PICKLED
        elif state == "finished":
            if entry.output != "{}" and (outcome := read_object(entry.output)).get("error"):
                state, error = "failed", printable(outcome["error"], in_one_line=True)
                if error == CANCELLED:  # the worker saw the file `cancel` before the record was updated
                    state, error = "cancelled", ""
        elif state == "failed":
            error = f"The worker failed: {first_line(read_object(entry.error).get('message', 'nobody noted why'))}"
        elif state == "running":
            error, progress = halted, Calculation(self.root / "jobs" / entry.id).progress()
        after, created, retries = told.get("after"), told.get("created"), told.get("retries")
        return Row(
            entry.id, str(told.get("title", "")), state,
            1.0 if state == "finished" else float(progress.get("fraction", 0.0)), progress.get("seconds_left"),
            _time(created if isinstance(created, int) else entry.created_at),
            entry.priority or 0, retries if isinstance(retries, int) else 0,
            tuple(map(str, after)) if after and isinstance(after, list) else (), error, str(told.get("image", "")),
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
        self.record.cancel(job_id)
        self.config.make_executor().stop(folder)

    def retry(self, job_id: str, from_start: bool = False) -> None:
        """Queue a job again that failed or was cancelled, or whose result is lost or damaged.

        Parameters
        ----------
        job_id : str
        from_start : bool
            Whether to start again instead of resuming from the checkpoint: its earlier output is set aside. A finished
            job can be calculated again this way.

        Raises
        ------
        StemAeError
            If there is no such job, or it cannot be tried again.
        """
        entry = self._entry(job_id)
        row, calculation = self._rows([entry])[0], Calculation(self.root / "jobs" / job_id)
        folder = calculation.folder
        is_damaged = row.state == "finished" and (not calculation.finished or bool(calculation.damage()))
        if row.state not in OVER or (row.state == "finished" and not is_damaged and not from_start):
            raise StemAeError(
                f"Job {job_id} is {row.state}: only failed and cancelled jobs, and those with a damaged result, can be "
                "tried again; a finished one from the start."
            )
        if is_worked_on(folder):
            raise StemAeError(f"The process of job {job_id} has not ended yet: try again in a few seconds.")
        _ = calculation.input  # refuses what is lost or damaged
        if from_start:
            set_aside(folder, [path.name for path in folder.iterdir() if path.name not in KEPT_AT_A_START])
        calculation.mend()
        for name in ("cancel", "error.json", "attempts"):
            (folder / name).unlink(missing_ok=True)
        if entry.is_read:
            self.record.retry(job_id)
        else:
            self.submit_again(job_id)

    def submit_again(self, job_id: str) -> None:
        """Rebuild a job's row in the record from its folder.

        Raises
        ------
        StemAeError
            If its input is lost or damaged, or the record cannot be written.
        """
        content = Calculation(self.root / "jobs" / job_id).input
        told = content.get("job") or {"title": str(content["task"].get("kind", "")), "priority": 10, "retries": 2}
        attributes = {name: told[name] for name in ("title", "retries", "after", "image", "created") if name in told}
        if self.record.entries([job_id]):
            self.record.delete([job_id])
        self.record.add(job_id, int(told.get("priority", 10)), attributes, waits=bool(told.get("after")))
        with contextlib.suppress(OSError):
            (self.root / "jobs" / job_id / SUBMITTED).touch()

    def take_over(self, machine: str) -> list[str]:
        """Let other machines have the jobs that a machine which is gone was working on, and return their numbers.

        Only for a queue of several machines: a worker takes up by itself what an earlier one on its machine left. Where
        the shared disk knows locks, a calculation that still runs there is waited for.

        Raises
        ------
        StemAeError
            If a worker on that machine is still at work.
        """
        if machine != pathlib.PurePath(machine).name or not (self.root / "workers" / machine).is_dir():
            raise StemAeError(f"No worker on a machine {machine!r} has served this queue.")
        if held(self.root / "workers" / machine):
            raise StemAeError(f"The worker on {machine} is at work: end it first, or leave its jobs to it.")
        left = [entry.id for entry in self.record.entries(statuses=["PENDING"]) if entry.executor == machine]
        if left:
            self.record.resume(left)
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
        with contextlib.ExitStack() as stack:
            log: Any = subprocess.DEVNULL
            with contextlib.suppress(OSError):  # on a full disk there is no log, but a worker that waits for room
                self.worker_folder.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context((self.worker_folder / "log.txt").open("ab"))
            subprocess.Popen(
                processes.command("stem_ae", "worker", "--queue", str(self.root), "--idle", "600"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=processes.environment(),
                **processes.detached(),
            )  # fmt: skip


def _carried(atoms: ase.Atoms | None, parents: Sequence[Job]) -> dict[str, Any]:
    """Return what a structure, or the job that will give it, says about where it comes from."""
    if atoms is not None:
        report = atoms.info.get("stem_ae")
        provenance = report.get("provenance") if isinstance(report, Mapping) else None
        return dict(provenance) if isinstance(provenance, Mapping) else {}
    known = parents[0].calculation.input["provenance"] if parents else {}
    return {name: value for name, value in known.items() if name != "hashes"}


def _unknown(job_id: str) -> StemAeError:
    return StemAeError(f"There is no job {job_id!r}: 'stem-ae jobs list' shows them.")


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _time(milliseconds: int) -> datetime.datetime:
    """Return a time of the record, or 1970 for an impossible one."""
    try:
        return datetime.datetime.fromtimestamp(milliseconds / 1000)
    except (OverflowError, ValueError, OSError):
        return datetime.datetime.fromtimestamp(0)


def _touched(path: pathlib.Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:20]
    except OSError:
        return "unknown"
