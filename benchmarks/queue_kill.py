"""Short jobs under random kill -9 of worker, client and calculations: what is lost, what is done twice.

Every job appends its number to a common file as its last act (one ``write`` in append mode, so lines never mix) and is
then finished. A number that is missing was lost; the record is asked as well. A process that was killed *while* it ran
may leave its line and be run again, therefore only workers and clients are killed unless ``--calculations`` is given.

    python benchmarks/queue_kill.py --jobs 1000 --slots 2
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from stem_ae import jobs

CLIENT = """
import pathlib, sys, time
from stem_ae import jobs, simulate
queue = jobs.Queue.open(sys.argv[1])
first, last = int(sys.argv[2]), int(sys.argv[3])
noted = open(sys.argv[4], "a", buffering=1)
for k in range(first, last):
    line = f"import os; os.write(os.open({sys.argv[5]!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT), b'{k}\\\\n')"
    start = time.perf_counter()
    job = queue.submit(simulate.Command(f'{sys.executable} -S -c "{line}"'), title=str(k))
    noted.write(f"{k} {job.id} {time.perf_counter() - start:.4f}\\n")
    time.sleep(0.1)  # so that there is a client to be killed
"""


def start_worker(root: pathlib.Path, slots: int) -> subprocess.Popen[bytes]:
    """Start a worker as a user would."""
    return subprocess.Popen(
        [sys.executable, "-m", "stem_ae", "worker", "--queue", str(root), "--slots", str(slots)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill -9."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def run(count: int, slots: int, seed: int, pause: tuple[float, float], calculations: bool) -> dict[str, object]:
    """Submit and work with kills; return the counts."""
    rng = random.Random(seed)
    root = pathlib.Path(tempfile.mkdtemp(prefix="queue_kill_"))
    done, noted = root / "done.txt", root / "noted.txt"
    noted.touch()
    kills = collections.Counter[str]()
    start = time.monotonic()
    worker, client = start_worker(root / "queue", slots), None
    next_kill = time.monotonic() + rng.uniform(*pause)
    queue = jobs.Queue.open(root / "queue")
    while True:
        submitted = len(noted.read_text().splitlines())
        if submitted < count and (client is None or client.poll() is not None):
            client = subprocess.Popen(
                [sys.executable, "-c", CLIENT, str(root / "queue"), str(submitted), str(count), str(noted), str(done)]
            )
        rows = queue.rows()
        if submitted == count and all(row.state in jobs.OVER for row in rows):
            break
        if time.monotonic() > next_kill:
            if client is not None and client.poll() is None and rng.random() < 0.5:
                kill(client)
                kills["client"] += 1
            else:
                kill(worker)
                kills["worker"] += 1
                worker = start_worker(root / "queue", slots)
            if calculations:
                kills["calculation"] += kill_one_calculation(rows, root, rng)
            next_kill = time.monotonic() + rng.uniform(*pause)
        time.sleep(0.1)
    kill(worker)
    lines = noted.read_text().splitlines()
    promised = {line.split()[1] for line in lines}
    states = {row.id: row.state for row in queue.rows()}
    runs = collections.Counter(done.read_text().split())
    times = sorted(float(line.split()[2]) for line in lines)
    return {
        "jobs": count, "seconds": round(time.monotonic() - start, 1), "kills": dict(kills),
        "submitted": len(states),
        "lost": sum(states.get(job) != "finished" for job in promised),
        "not_run": sum(str(k) not in runs for k in range(count)),
        # A client that was killed between submitting and noting its number submits that job anew, as another job.
        "run_twice": sum(runs.values()) - len(states),
        "submit_ms_median": round(1e3 * times[len(times) // 2], 1),
        "submit_ms_95": round(1e3 * times[int(0.95 * len(times))], 1),
    }  # fmt: skip


def kill_one_calculation(rows: list[jobs.Row], root: pathlib.Path, rng: random.Random) -> int:
    """Kill -9 the process group of a random running job."""
    running = [row.id for row in rows if row.state == "running"]
    if not running:
        return 0
    try:
        identity = json.loads((root / "queue" / "jobs" / rng.choice(running) / "process.json").read_bytes())
        os.killpg(int(identity["pid"]), signal.SIGKILL)
    except (OSError, ValueError, KeyError):
        return 0
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, nargs=2, default=(10.0, 30.0), help="seconds between kills, from and to")
    parser.add_argument("--calculations", action="store_true", help="kill the jobs' own processes too")
    arguments = parser.parse_args()
    pause = (arguments.pause[0], arguments.pause[1])
    print(json.dumps(run(arguments.jobs, arguments.slots, arguments.seed, pause, arguments.calculations), indent=1))


if __name__ == "__main__":
    main()
