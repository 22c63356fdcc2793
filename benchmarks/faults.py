"""Injected faults: killed submissions, workers, calculations and child processes, hung ones, and damaged files.

Prints a table of how many were injected, what was lost, done twice or without a way back, and what was left over.

    python benchmarks/faults.py [--only submissions workers children damage]

Children are given 2 s instead of 30 s to show a sign of life. A calculation that is killed when it has done its work
but could not say so is run again; that is not counted as done twice.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from unittest import mock

import ase.build
import numpy as np

from stem_ae import jobs, processes, simulate
from stem_ae.elit.remote import PredictionProcess
from stem_ae.errors import StemAeError
from stem_ae.explore.remote import DecisionProcess
from stem_ae.jobs.remote import Answer, Workbench
from stem_ae.simulate.calculation import Reporter
from stem_ae.simulate.running import run_folder

CLIENT = """
import pathlib, sys
sys.path.insert(0, sys.argv[4])
from faults import append
from stem_ae import jobs
queue, noted = jobs.Queue.open(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
done, first = sys.argv[3], int(sys.argv[5])
queue.record.open()
print("ready", flush=True)
for k in range(first, first + 1000):
    noted.write(f"begin {k}\\n")
    job = queue.submit(append(pathlib.Path(done), k), title=str(k))
    noted.write(f"told {k} {job.id}\\n")
"""
"""Submits without a pause, and notes what it was told."""

DYNAMICS = simulate.MolecularDynamics(temperature=300, steps=40, engine="emt", every=2)


def append(path: pathlib.Path, number: int, after: float = 0.0) -> simulate.Command:
    """Return a job that appends its number to a file, as its last act and in one piece."""
    opened = f"os.open({str(path)!r}, {os.O_WRONLY | os.O_APPEND | os.O_CREAT})"
    code = f"import os, time; time.sleep({after}); os.write({opened}, b'{number} ')"
    return simulate.Command(f'{sys.executable} -S -c "{code}"')


@contextlib.contextmanager
def working(root: pathlib.Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep a worker, the last of a list."""
    workers = [start_worker(root)]
    try:
        yield workers
    finally:
        workers[-1].kill()
        workers[-1].wait()


def start_worker(root: pathlib.Path) -> subprocess.Popen[bytes]:
    """Start a worker as a user would."""
    return subprocess.Popen(
        processes.command("stem_ae", "worker", "--queue", str(root), "--slots", "2"), env=processes.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def check(root: pathlib.Path) -> None:
    """Mend a queue as a user would."""
    subprocess.run(
        processes.command("stem_ae", "jobs", "check", "--queue", str(root)), env=processes.environment(),
        stdout=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def until(condition: Callable[[], object], seconds: float = 300.0) -> bool:
    """Wait, and say whether it came."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def all_over(queue: jobs.Queue) -> bool:
    """Say whether nothing is left to do."""
    return all(row.state in jobs.OVER for row in queue.rows())


def runs(done: pathlib.Path) -> collections.Counter[str]:
    """Return how often each job did its work."""
    return collections.Counter(done.read_text().split() if done.exists() else [])


# --- the four kinds ---------------------------------------------------------------------------------------------------


def submissions(folder: pathlib.Path, rng: random.Random) -> dict[str, object]:
    """Kill 40 clients while they submit."""
    root, noted, done = folder / "queue", folder / "noted", folder / "done"
    queue, injected = jobs.Queue.open(root), 0
    for number in range(40):
        client = subprocess.Popen(
            [sys.executable, "-P", "-c", CLIENT, root, noted, done, pathlib.Path(__file__).parent, str(1000 * number)],
            env=processes.environment(), stdout=subprocess.PIPE,
        )  # fmt: skip
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.08))
        client.kill()
        client.communicate()
        injected += noted.read_text().splitlines()[-1].startswith("begin")
    told = {job: k for word, k, job in map(str.split, noted.read_text().replace("begin", "begin 0").splitlines())
            if word == "told"}  # fmt: skip
    known = {row.id for row in queue.rows()}
    orphans = [path for path in (root / "jobs").iterdir() if path.name not in known]
    for path in orphans:  # as if they had been there for two hours: younger ones may be under way
        os.utime(path, (time.time() - 7200,) * 2)
    with working(root):
        check(root)
        until(lambda: all_over(queue))
    counted = runs(done)
    states = {row.id: row.state for row in queue.rows()}
    left = [path for path in (root / "jobs").iterdir() if path.name not in states]
    return {
        "fault": "clients killed in submit", "injected": injected,
        "lost": sum(states.get(job) != "finished" or not counted[k] for job, k in told.items()),
        "twice": sum(number - 1 for number in counted.values()),
        "no way back": sum(state != "finished" for state in states.values()),
        "left over": len(left), "note": f"{len(told)} acknowledged, {len(orphans)} orphans pruned",
    }  # fmt: skip


def workers(folder: pathlib.Path, rng: random.Random) -> dict[str, object]:
    """Kill 25 workers and 25 calculations."""
    root, done = folder / "queue", folder / "done"
    queue, killed = jobs.Queue.open(root), collections.Counter[str]()
    count = 100
    told = {queue.submit(append(done, k, after=1.0), title=str(k), retries=1000).id: str(k) for k in range(count)}
    with working(root) as alive:
        while sum(killed.values()) < 50 and not all_over(queue):
            time.sleep(rng.uniform(0.5, 2.0))
            if killed["worker"] < 25 and killed["worker"] <= killed.total() - killed["worker"]:
                alive[-1].kill()
                alive[-1].wait()
                alive.append(start_worker(root))
                killed["worker"] += 1
                continue
            running = [row.id for row in queue.rows() if row.state == "running"]
            for number in rng.sample(running, min(1, len(running))):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    identity = json.loads((root / "jobs" / number / "process.json").read_bytes())
                    os.killpg(int(identity["pid"]), signal.SIGKILL)
                    killed[told[number]] += 1
        until(lambda: all_over(queue))
    counted = runs(done)
    states = {row.id: row.state for row in queue.rows()}
    return {
        "fault": "workers and calculations killed", "injected": killed.total(),
        "lost": sum(states.get(job) is None or not counted[k] for job, k in told.items()),
        "twice": sum(max(0, counted[k] - 1 - killed[k]) for k in told.values()),
        "no way back": sum(state != "finished" for state in states.values()), "left over": 0,
        "note": f"{killed['worker']} workers; {count} jobs",
    }  # fmt: skip


def children(folder: pathlib.Path, rng: random.Random) -> dict[str, object]:
    """Kill or stop 100 child processes, before or in the middle of what they are asked."""
    image = np.random.default_rng(0).poisson(5.0, (96, 96)).astype(np.float32)
    predicting, deciding, building = PredictionProcess(), DecisionProcess(), Workbench(str(folder / "queue"))
    ensemble = predicting.load("graphene")

    def build() -> None:
        answers: list[Answer] = []
        building.ask({"do": "engines"}, answers.append)
        if not until(lambda: answers, 60):
            raise TimeoutError
        if answers[0].error:
            raise StemAeError(answers[0].error)

    kinds: list[tuple[processes.Companion, Callable[[], object]]] = [
        (predicting._process, lambda: ensemble.predict(image, (0.1, 0.1))),
        (deciding._process, lambda: deciding.ready().result(60)), (building._process, build),
    ]  # fmt: skip
    injected, silent, dead, sentences = 0, 0, 0, collections.Counter[str]()
    with mock.patch.object(processes, "_SILENT_S", 2.0):
        for number in range(100):
            companion, ask = kinds[min(number % 5, 2)]  # those with PyTorch take long to start
            try:
                if not _answers(ask):
                    dead += 1
                    continue
                assert companion.pid is not None
                os.kill(companion.pid, signal.SIGKILL if number % 2 else signal.SIGSTOP)
                injected += 1
                ask()
                silent += companion is not deciding._process  # that one may be started again at once
            except StemAeError as error:
                sentences[str(error)[:60]] += 1
            except Exception as error:  # what nobody foresaw, or a wait in vain
                silent += 1
                print(type(error).__name__, error, file=sys.stderr)
        dead += sum(not _answers(ask) for _, ask in kinds)
    pids = [companion.pid for companion, _ in kinds if companion.pid is not None]
    for side in (predicting, deciding, building):
        side.close()
    return {
        "fault": "child processes killed or stopped", "injected": injected, "lost": silent, "twice": 0,
        "no way back": dead,
        "left over": sum(not until(lambda pid=pid: processes.identify(pid) is None, 15) for pid in pids),
        "note": f"{sentences.total()} times a sentence",
    }  # fmt: skip


def _answers(ask: Callable[[], object]) -> bool:
    """Say whether it works, at the second try at the latest."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            ask()
            return True
    return False


def damage(folder: pathlib.Path, rng: random.Random) -> dict[str, object]:
    """Damage files of finished and broken-off dynamics, and the record, in 26 ways."""
    found = [_damaged_files(folder), _damaged_records(folder, rng)]
    return {
        "fault": "kinds of damage", "twice": found[1]["twice"], "left over": 0,
        "note": "result, trajectory, input, notes, checkpoint, record",
        **{name: sum(one[name] for one in found) for name in ("injected", "lost", "no way back")},
    }  # fmt: skip


def cut(path: pathlib.Path) -> None:
    """Keep the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x15
    path.write_bytes(bytes(content))


def scribble(path: pathlib.Path) -> None:
    """Write nonsense into it."""
    path.write_bytes(os.urandom(500))


def empty(path: pathlib.Path) -> None:
    """Keep nothing."""
    path.write_bytes(b"")


def delete(path: pathlib.Path) -> None:
    """Keep not even the file."""
    path.unlink()


FINISHED = [
    ("result.json", (cut, flip, scribble, empty, delete)), ("result.extxyz", (cut, flip, delete)),
    ("trajectory.extxyz", (cut, flip, delete)), ("input.json", (cut, empty, delete)), ("progress.json", (scribble,)),
]  # fmt: skip
BROKEN_OFF = [("checkpoint.npz", (cut, flip, scribble, delete)), ("trajectory.extxyz", (cut, delete))]


def _damaged_files(folder: pathlib.Path) -> dict[str, int]:
    """Damage a file of each of many jobs; a check and a worker have to bring all to the same end."""
    queue = jobs.Queue.open(folder / "files")
    copper = ase.build.bulk("Cu", cubic=True) * (2, 2, 2)
    whole = queue.submit(DYNAMICS, copper)
    finished = [(queue.submit(DYNAMICS, copper), name, how) for name, ways in FINISHED for how in ways]
    with working(queue.root):
        until(lambda: all_over(queue))
    broken = [(queue.submit(DYNAMICS, copper), name, how) for name, ways in BROKEN_OFF for how in ways]
    for job, _, _ in broken:  # in a process each, which holds the folder's lock until it ends
        process = multiprocessing.get_context("spawn").Process(target=_break_off, args=(job.calculation.folder,))
        process.start()
        process.join()
    kept = {}
    for job, name, how in finished + broken:
        how(job.calculation.folder / name)
        path = job.calculation.folder / name
        kept[job.id] = path.read_bytes() if path.exists() else b""
    with working(queue.root):
        check(queue.root)
        until(lambda: all_over(queue))
    right = whole.result()
    ended = [_ends_like(job, right) for job, _, _ in finished + broken]
    gone = [
        name in ("result.json", "checkpoint.npz") and bool(kept[job.id])
        and not any(path.read_bytes() == kept[job.id] for path in job.calculation.folder.rglob(name))
        for job, name, _ in finished + broken
    ]  # fmt: skip
    for (job, name, how), is_right, is_gone in zip(finished + broken, ended, gone, strict=True):
        if not is_right or is_gone:
            print(f"{job.id}: {name} {how.__name__}: {job.state} {job.error}", file=sys.stderr)
    return {"injected": len(ended), "lost": sum(gone), "no way back": ended.count(False), "twice": 0}


def _break_off(folder: pathlib.Path) -> None:
    """Run half of a calculation, as if it had been killed then."""
    checkpoint, kept = Reporter.checkpoint, []

    def ending(self: Reporter, **arrays: object) -> None:
        checkpoint(self, **arrays)
        kept.append(1)
        if len(kept) == 20:
            raise SystemExit

    with (
        mock.patch.object(Reporter, "due", return_value=True), mock.patch.object(Reporter, "checkpoint", ending),
        contextlib.suppress(SystemExit),
    ):  # fmt: skip
        run_folder(folder)


def _ends_like(job: jobs.Job, right: simulate.Result) -> bool:
    try:
        result = job.result()
        return len(result.trajectory) == 21 and bool(np.allclose(result.atoms.positions, right.atoms.positions))
    except StemAeError as error:
        print(error, file=sys.stderr)
        return False


def _damaged_records(folder: pathlib.Path, rng: random.Random) -> dict[str, int]:
    """Damage the record of a queue with finished and queued jobs."""
    found = collections.Counter[str]()
    for k, how in enumerate((cut, scribble, empty, delete, _overwrite)):
        root, done = folder / f"record{k}", folder / f"done{k}"
        queue = jobs.Queue.open(root)
        numbers = [queue.submit(append(done, n), title=str(n)).id for n in range(4)]
        with working(root):
            until(lambda queue=queue: all_over(queue))
        numbers += [queue.submit(append(done, n), title=str(n)).id for n in range(4, 6)]
        queue.record.close()
        for path in root.glob("queue.sqlite-*"):
            path.unlink()
        how(root / "queue.sqlite")
        check(root)
        queue = jobs.Queue.open(root)
        with working(root):
            until(lambda queue=queue: all_over(queue))
        states, counted = {row.id: row.state for row in queue.rows()}, runs(done)
        found += collections.Counter({
            "injected": 1, "lost": int(not set(numbers) <= set(states)),
            "no way back": int(any(state != "finished" for state in states.values())),
            "twice": sum(counted[str(n)] > 1 for n in range(6)),
        })  # fmt: skip
    return {name: found[name] for name in ("injected", "lost", "no way back", "twice")}


def _overwrite(path: pathlib.Path) -> None:
    """Overwrite pages in the middle."""
    content = path.read_bytes()
    path.write_bytes(content[:100] + os.urandom(20_000) + content[20_100:])


KINDS = {"submissions": submissions, "workers": workers, "children": children, "damage": damage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = ("fault", "injected", "lost", "twice", "no way back", "left over", "seconds", "note")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)
    bad = 0
    for kind in arguments.only:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="faults_"))
        start = time.monotonic()
        row = KINDS[kind](folder, random.Random(arguments.seed)) | {"seconds": round(time.monotonic() - start)}
        bad += sum(int(str(row[name])) for name in names[2:6])
        print(f"| {' | '.join(str(row[name]) for name in names)} |", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
