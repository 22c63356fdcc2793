"""Finds and repairs what is lost or damaged in a queue, sets damaged files aside, and removes old jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.jobs.executors import held, is_worked_on
from stem_ae.jobs.queue import OVER, SUBMITTED, Queue, State
from stem_ae.jobs.record import FILE, PICKLED, first_line, is_job_number
from stem_ae.simulate.calculation import Calculation, disk_error, set_aside, unsealed, write_atomically

PRUNED = "pruned"
"""File in the folder of a job that is being removed, so that a check does not take it for a lost one."""

BACKUPS = 5
"""Backups of the record that are kept."""

_YOUNG_S = 3600.0
"""A folder younger than this may belong to a submission under way."""

_SIGNS_OF_WORK = ("lock", "log.txt", "progress.json", "result.json", "error.json")


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault found by a check.

    Attributes
    ----------
    job : str
        Whose; empty for the record itself.
    what : str
        What is wrong, a sentence.
    done : str
        What was done, or what the user should do, a sentence.
    is_mended : bool
        Whether it is in order now, or would be after mending.
    """

    job: str
    what: str
    done: str
    is_mended: bool


def check(queue: Queue, mend: bool = True) -> tuple[list[Finding], pathlib.Path | None]:
    """Find and repair what is lost or damaged in a queue.

    A lost or damaged record is rebuilt from the jobs' folders; damaged files are set aside, never deleted.

    Parameters
    ----------
    queue : Queue
    mend : bool
        Whether to mend, or only to look.

    Returns
    -------
    findings : list of Finding
    backup : path or None
        Of the record before the repair, if it was in a readable file.

    Raises
    ------
    StemAeError
        If the record has to be rebuilt while a worker uses it, or nothing can be written.
    """
    findings, backup = [], None
    damage = _damage_of_record(queue)
    if damage:
        findings.append(_record_anew(queue, damage, mend))
    elif mend:
        backup = back_up(queue)
    rows = {} if damage else {row.id: row for row in queue.rows()}
    if not damage or mend:
        for folder in sorted(_folders(queue), key=lambda path: path.name):
            row = rows.get(folder.name)
            found = _of_lost_row(queue, folder, bool(damage), mend) if row is None else []
            found += _of_folder(queue, folder, row.state if row else None, row.error if row else "", mend)
            findings += found
    for number, row in rows.items():
        if not (queue.root / "jobs" / number).is_dir() and row.state != "failed":
            findings.append(
                Finding(
                    number, f"The folder of this job ({row.title}), which is {row.state}, is gone.",
                    "Submit it again; 'stem-ae jobs prune' takes it off the list when it is over.", False,
                )
            )  # fmt: skip
    removed = [] if damage and not mend else remove_orphans(queue, mend)
    findings += [Finding(job, "Its submission was killed.", "Its folder is removed.", True) for job in removed]
    return findings, backup


def _damage_of_record(queue: Queue) -> str:
    """Return why the record has to be rebuilt; empty if it is intact."""
    record = queue.record
    if record.is_shared:
        queue.counts()
        return ""
    path = queue.root / FILE
    if not path.exists():
        return "The record is lost." if any(True for _ in _folders(queue)) else ""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            told = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
            connection.execute("SELECT workflow_uuid, output, error FROM workflow_output").fetchall()
        queue.record.entries()
    except (sqlite3.Error, StemAeError) as error:
        return f"The record is damaged ({first_line(error)})."
    return "" if told == ["ok"] else f"The record is damaged ({first_line(told[0])})."


def _record_anew(queue: Queue, damage: str, mend: bool) -> Finding:
    if mend:
        if any(held(path) for path in queue.root.glob("workers/*")):
            raise StemAeError(f"{damage} A worker still uses it: end it first, then check again.")
        queue.record.close()
        set_aside(queue.root, [FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}.new"])
        queue.record.make_anew()
    return Finding("", damage, "It is rebuilt from the jobs' folders; the damaged one is in 'set_aside'.", True)


def back_up(queue: Queue) -> pathlib.Path | None:
    """Copy the record to the folder ``backups``, and return where to; None if it is a server's, or there is none.

    Raises
    ------
    StemAeError
        If it cannot be written.
    """
    path = queue.root / FILE
    if queue.record.is_shared or not path.exists():
        return None
    folder = queue.root / "backups"
    target = folder / f"queue-{datetime.datetime.now():%Y%m%d-%H%M%S}.sqlite"
    try:
        folder.mkdir(exist_ok=True)
        with (
            contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
        for old in sorted(folder.glob("queue-*.sqlite"))[:-BACKUPS]:
            old.unlink()
    except OSError as error:
        raise disk_error(error, folder) from error
    except sqlite3.Error as error:
        raise StemAeError(f"The record cannot be copied to {target} ({error}): check that there is room.") from error
    return target


# --- each job ---------------------------------------------------------------------------------------------------------


def _folders(queue: Queue) -> list[pathlib.Path]:
    try:
        return [path for path in (queue.root / "jobs").iterdir() if path.is_dir() and is_job_number(path.name)]
    except OSError:
        return []


def _of_lost_row(queue: Queue, folder: pathlib.Path, is_record_new: bool, mend: bool) -> list[Finding]:
    """Put a job back into the record, if its submission was acknowledged."""
    if (folder / PRUNED).exists() or not _was_submitted(folder, is_record_new):
        return []
    what = "It is not in the record."
    try:
        _ = Calculation(folder).input
        if mend:
            queue.submit_again(folder.name)
    except StemAeError as error:
        return [Finding(folder.name, what, str(error), False)]
    return [Finding(folder.name, what, "It is queued again; if it was over, a worker says so at once.", True)]


def _was_submitted(folder: pathlib.Path, is_record_new: bool) -> bool:
    if any((folder / name).exists() for name in (SUBMITTED, *_SIGNS_OF_WORK)):
        return True
    with contextlib.suppress(StemAeError):
        return is_record_new and "job" not in Calculation(folder).input  # an earlier version's
    return False


def _of_folder(queue: Queue, folder: pathlib.Path, state: State | None, error: str, mend: bool) -> list[Finding]:
    """Repair a job's folder."""
    findings = []
    calculation = Calculation(folder)

    def mended(what: str, done: str, action: Callable[[], object]) -> None:
        try:
            if mend:
                action()
            findings.append(Finding(folder.name, what, done, True))
        except (StemAeError, OSError) as failure:
            findings.append(Finding(folder.name, what, str(failure), False))

    if (state or error) and (damaged := _damaged_inputs(folder)):
        if len(damaged) == 2:
            findings.append(
                Finding(folder.name, "Its input and the copy of it are damaged.", "Submit it again.", False)
            )
            return findings
        mended(
            f"{damaged[0]} is damaged or lost.", "It is rebuilt from its copy.",
            lambda: _restore_input(folder, damaged[0]),
        )  # fmt: skip
    if error == PICKLED:
        mended("Its row of the record is pickled.", "The row is rebuilt.", lambda: queue.submit_again(folder.name))
        return findings
    if state == "finished":
        damage = "result.json is lost" if not calculation.finished else calculation.damage()
        if damage:
            mended(
                f"Its result is damaged ({damage}).", "It is set aside and calculated again.",
                lambda: queue.retry(folder.name),
            )  # fmt: skip
    if state not in ("running", "finished") and (names := _damaged_notes(calculation)):
        mended(f"{', '.join(names)}: damaged.", "Set aside.", lambda: set_aside(folder, names))
    return findings


def _damaged_inputs(folder: pathlib.Path) -> list[str]:
    damaged: list[str] = []
    for name in ("input.json", "input.copy.json"):
        try:
            unsealed((folder / name).read_bytes())
        except FileNotFoundError:
            if name == "input.json":
                damaged.append(name)  # an earlier version wrote no copy
        except (OSError, ValueError):
            damaged.append(name)
    if damaged == ["input.json"] and not (folder / "input.copy.json").exists():
        return ["input.json", "input.copy.json"]
    return damaged


def _restore_input(folder: pathlib.Path, damaged: str) -> None:
    whole = "input.copy.json" if damaged == "input.json" else "input.json"
    content = (folder / whole).read_bytes()
    set_aside(folder, [damaged])
    write_atomically(folder / damaged, content)


def _damaged_notes(calculation: Calculation) -> list[str]:
    """Return which of the small files are unreadable."""
    folder = calculation.folder
    read = {"progress.json": calculation.progress, "error.json": calculation.error}
    return [name for name, reader in read.items() if (folder / name).exists() and not reader()]


# --- removing jobs ----------------------------------------------------------------------------------------------------


def remove_orphans(queue: Queue, remove: bool = True) -> list[str]:
    """Remove the folders of submissions that were killed before they were acknowledged, and return their names.

    Raises
    ------
    StemAeError
        If the record cannot be read.
    """
    known = {entry.id for entry in queue.record.entries()}
    now, orphans = time.time(), []
    for folder in _folders(queue):
        if folder.name in known or is_worked_on(folder):
            continue
        with contextlib.suppress(OSError):
            is_old = now - folder.stat().st_mtime > _YOUNG_S
            if (folder / PRUNED).exists() or (is_old and not _was_submitted(folder, False)):
                orphans.append(folder.name)
                if remove:
                    shutil.rmtree(folder)
    return orphans


def prune(
    queue: Queue, older_than_days: float, states: Sequence[State] = OVER, remove: bool = True
) -> tuple[list[str], int]:
    """Remove old jobs with their results, except those that other jobs still wait for.

    Parameters
    ----------
    queue : Queue
    older_than_days : float
        How long ago they were submitted.
    states : sequence of str
        Only those that are finished, failed or cancelled.
    remove : bool
        Whether to remove them, or only to look.

    Returns
    -------
    jobs : list of str
        Which.
    size : int
        Bytes of their folders.

    Raises
    ------
    StemAeError
        If the record cannot be written.
    """
    checks.number(older_than_days, "The age", least=0.0, unit="days")
    if not set(states) <= set(OVER):
        raise StemAeError(f"Only jobs that are {', '.join(OVER)} can be removed.")
    rows = queue.rows()
    needed = {parent for row in rows if row.state not in OVER for parent in row.after}
    limit = datetime.datetime.now() - datetime.timedelta(days=older_than_days)
    old = [row.id for row in rows if row.state in states and row.created < limit and row.id not in needed]
    folders = [folder for number in old if (folder := queue.root / "jobs" / number).is_dir()]
    size = sum(path.lstat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    if remove:
        for folder in folders:
            with contextlib.suppress(OSError):
                (folder / PRUNED).touch()
        queue.record.delete(old)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    return old, size
