"""``stem-ae jobs`` and ``stem-ae worker``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from stem_ae.terminal import printable

if TYPE_CHECKING:
    from stem_ae.jobs.queue import Queue, Row

OVER = ("finished", "failed", "cancelled")


def add_parsers(subparsers: Any) -> None:
    """Register the commands."""
    jobs = subparsers.add_parser("jobs", help="list, watch and cancel background jobs")
    what = jobs.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, help_, handler in (
        ("list", "list the jobs, newest first", _list),
        ("show", "show one job: state, progress, result or error", _show),
        ("log", "print the end of what a job's engine printed", _log),
        ("wait", "wait until a job is over; exit code 1 if it did not finish", _wait),
        ("cancel", "take a job out of the queue and stop its process", _cancel),
        ("retry", "queue a failed or cancelled job again, from its checkpoint", _retry),
        ("result", "copy a job's final structure, or print its summary", _result),
        ("image", "write the ADF image that a job's final structure would give (TIFF)", _image),
        ("temperatures", "bonds and rings against temperature: the dynamics after a relaxation", _temperatures),
        ("next", "rank the places of a job's image to look at next", _next),
        ("take-over", "let other machines have the jobs of one that is gone (PostgreSQL)", _take_over),
        ("check", "back up the record, then repair what is lost or damaged", _check),
        ("prune", "remove old jobs with their results", _prune),
    ):
        parser = what.add_parser(name, help=help_)
        parser.set_defaults(run=handler)
        parser.add_argument("--queue", metavar="FOLDER", help="the queue's folder (default: yours)")
        if name == "take-over":
            parser.add_argument("machine", help="its host name: a folder of the queue's 'workers'")
        elif name not in ("list", "check", "prune"):
            atoms = "; for --by uncertainty the file of the atoms" if name == "next" else ""
            parser.add_argument("job", help=f"its number, or the end of it{atoms}")
        if name in ("list", "show", "result", "next", "temperatures", "check", "prune"):
            parser.add_argument("--json", action="store_true", help="print JSON")
        if name == "list":
            parser.add_argument("--watch", action="store_true", help="print the list again and again until interrupted")
            parser.add_argument("--newest", type=int, metavar="N", help="only so many")
        if name in ("check", "prune"):
            parser.add_argument("--dry-run", action="store_true", help="change nothing, only list what would be done")
        if name == "prune":
            parser.add_argument(
                "--older-than", type=float, required=True, metavar="DAYS", help="since they were submitted"
            )
            parser.add_argument("--state", nargs="+", choices=OVER, default=list(OVER), help="only those")
        if name == "retry":
            parser.add_argument(
                "--from-start", action="store_true", help="not from its checkpoint; its earlier output is set aside"
            )
        if name == "wait":
            parser.add_argument("--timeout", type=float, metavar="SECONDS")
        if name == "log":
            parser.add_argument("--lines", type=int, default=50)
        if name == "next":
            parser.add_argument("--by", choices=["disagreement", "energy", "uncertainty"], default="disagreement")
        if name == "image":
            parser.add_argument("-o", "--output", required=True, metavar="FILE", help="32-bit TIFF with its sampling")
            parser.add_argument("--sigma", type=float, default=0.5, help="standard deviation of the probe, Å")
        if name == "result":
            parser.add_argument("-o", "--output", metavar="FILE", help="write the structure here, format by its suffix")
    worker = subparsers.add_parser("worker", help="work through the queue of background jobs")
    worker.set_defaults(run=_worker)
    worker.add_argument("--queue", metavar="FOLDER", help="the queue's folder (default: yours)")
    worker.add_argument("--slots", type=int, help="calculations at a time (default: as the queue's config.json says)")
    worker.add_argument("--idle", type=float, metavar="SECONDS", help="leave after so long without work")


def _open(arguments: argparse.Namespace) -> Queue:
    from stem_ae.jobs.queue import Queue

    return Queue.open(arguments.queue, create=False)


def _list(arguments: argparse.Namespace) -> None:
    from stem_ae import checks

    newest = None if arguments.newest is None else checks.whole(arguments.newest, "--newest")
    queue = _open(arguments)
    while True:
        rows = queue.rows(newest)
        if arguments.json:
            print(json.dumps([row._asdict() for row in rows], default=str))
        else:
            _print_table(queue, rows)
        if not arguments.watch:
            return
        time.sleep(1.0)


def _print_table(queue: Queue, rows: list[Row]) -> None:
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None
    lines = []
    for row in rows:
        left = "" if row.seconds_left is None else f"{row.seconds_left:.0f} s left"
        done = f"{100 * row.fraction:3.0f} %" if row.state in ("running", "finished") else ""
        line = f"{row.id}  {row.state:<9} {done:>5}  {left:>12}  {printable(row.title)}  {printable(row.error)}"
        lines.append(line.replace("\n", " ").replace("\t", " ").rstrip()[:width])
    print("\n".join(lines) or "There are no jobs.")
    if any(row.state in ("queued", "waiting") for row in rows) and not queue.worker_alive():
        print("No worker is running on this machine: start one with 'stem-ae worker'.", file=sys.stderr)


def _show(arguments: argparse.Namespace) -> None:
    queue = _open(arguments)
    job = queue.job(arguments.job)
    content = {
        **queue.row(job.id)._asdict(), "folder": str(job.calculation.folder), "progress": job.progress,
        "task": job.calculation.input["task"], "provenance": job.calculation.input["provenance"],
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(content, default=str))
        return
    for name, value in content.items():
        print(f"{name:>13}  {printable(value, in_one_line=True)}")


def _log(arguments: argparse.Namespace) -> None:
    print(printable(_open(arguments).job(arguments.job).calculation.log(arguments.lines)))


def _wait(arguments: argparse.Namespace) -> int:
    job = _open(arguments).job(arguments.job)
    state = job.wait(arguments.timeout)
    print(state, printable(job.error, in_one_line=True))
    return 0 if state == "finished" else 1


def _cancel(arguments: argparse.Namespace) -> None:
    _open(arguments).job(arguments.job).cancel()


def _retry(arguments: argparse.Namespace) -> None:
    _open(arguments).job(arguments.job).retry(from_start=arguments.from_start)


def _result(arguments: argparse.Namespace) -> None:
    result = _open(arguments).job(arguments.job).result()
    if arguments.output:
        from stem_ae.structure.files import write

        write(result.atoms, arguments.output)
    if arguments.json or not arguments.output:
        print(json.dumps(dict(result.summary), indent=None if arguments.json else 1))


def _image(arguments: argparse.Namespace) -> None:
    import pathlib

    from stem_ae.picture import save_map

    result = _open(arguments).job(arguments.job).result()
    save_map(pathlib.Path(arguments.output), result.image(sigma=arguments.sigma), tuple(result.frame["sampling"]))


def _temperatures(arguments: argparse.Namespace) -> None:
    from stem_ae.jobs.series import against_temperature

    queue = _open(arguments)
    found = against_temperature(queue, queue.job(arguments.job))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in found]))
        return
    for one in found:
        print(one.in_words())
    if not found:
        print("No dynamics of this structure has finished.")


def _take_over(arguments: argparse.Namespace) -> None:
    taken = _open(arguments).take_over(arguments.machine)
    print(f"{len(taken)} jobs of {arguments.machine} are queued again: the next worker that is free takes them.")


def _check(arguments: argparse.Namespace) -> int:
    from stem_ae.jobs.check import check

    findings, backup = check(_open(arguments), mend=not arguments.dry_run)
    if arguments.json:
        found = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"findings": found, "backup": None if backup is None else str(backup)}))
    else:
        for finding in findings:
            print(printable(f"{finding.job or 'record'}: {finding.what} {finding.done}", in_one_line=True))
        print("Nothing is lost or damaged." if not findings else f"{len(findings)} found.")
        if backup is not None:
            print(f"Backup of the record: {backup}")
    return 0 if all(finding.is_mended for finding in findings) else 1


def _prune(arguments: argparse.Namespace) -> None:
    from stem_ae.jobs.check import prune, remove_orphans

    queue, is_real = _open(arguments), not arguments.dry_run
    jobs, size = prune(queue, arguments.older_than, arguments.state, remove=is_real)
    orphans = remove_orphans(queue, remove=is_real)
    if arguments.json:
        print(json.dumps({"jobs": jobs, "bytes": size, "orphans": orphans}))
        return
    what = "removed" if is_real else "would be removed"
    print(f"{len(jobs)} jobs ({size / 1e6:.1f} MB) and {len(orphans)} folders of killed submissions {what}.")


def _next(arguments: argparse.Namespace) -> None:
    from stem_ae.atoms import Atoms2D
    from stem_ae.simulate import guidance
    from stem_ae.structure import to_image

    if arguments.by == "uncertainty":
        found = Atoms2D.read(arguments.job)
        spots = guidance.spots(found.positions, guidance.uncertainty(found))
    else:
        atoms = _open(arguments).job(arguments.job).result().atoms
        xy = to_image(atoms, atoms.arrays.get("image_position"))
        scores = guidance.excess_energy(atoms) if arguments.by == "energy" else guidance.disagreement(atoms)
        spots = guidance.spots(xy, scores)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(spot) for spot in spots]))
        return
    for spot in spots:
        print(f"x {spot.x:8.2f} Å   y {spot.y:8.2f} Å   {spot.score:8.2f} {guidance.UNITS[arguments.by]}")
    if not spots:
        print("Nothing stands out.")


def _worker(arguments: argparse.Namespace) -> None:
    from stem_ae.jobs.queue import Queue
    from stem_ae.jobs.worker import serve

    try:
        serve(Queue.open(arguments.queue), idle=arguments.idle, slots=arguments.slots)
    except KeyboardInterrupt:
        os._exit(130)  # calculations go on by themselves; the threads that look after them are not waited for
