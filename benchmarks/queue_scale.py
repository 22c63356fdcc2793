"""A queue with many jobs: how long its list takes, and what a worker without work costs.

python benchmarks/queue_scale.py --jobs 20000
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from stem_ae import jobs, processes, simulate
from stem_ae.jobs.serve import Server


def fill(queue: jobs.Queue, count: int) -> None:
    """Put copies of one finished job into the queue: rows of the record, and folders."""
    job = queue.submit(simulate.Command("true"), title="Relax C91H27 · graphene, frame 12")
    job.cancel()
    template = (job.calculation.folder / "input.json").read_bytes()
    with sqlite3.connect(queue.root / "queue.sqlite") as connection:
        cursor = connection.execute("SELECT * FROM workflow_status")
        names = [column[0] for column in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True))
        for k in range(count - 1):
            row |= {"workflow_uuid": f"20250101-000000-{k:08x}", "status": "SUCCESS"}
            row["created_at"] -= 1000
            columns, marks = ", ".join(names), ", ".join("?" * len(names))
            connection.execute(f"INSERT INTO workflow_status ({columns}) VALUES ({marks})", tuple(row.values()))
            connection.execute(
                "INSERT INTO workflow_output (workflow_uuid, output, error, retention_timestamp)"
                " VALUES (?, '{}', NULL, 0)", (row["workflow_uuid"],),
            )  # fmt: skip
            folder = queue.root / "jobs" / row["workflow_uuid"]
            folder.mkdir()
            (folder / "input.json").write_bytes(template)
    connection.close()


def timed(repeats: int, call: object, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the median time of a call in s."""
    times = []
    for _ in range(repeats):
        start = clock()
        call()  # type: ignore[operator]
        times.append(clock() - start)
    return statistics.median(times)


def cpu_seconds(pid: int) -> float:
    """Return what a process has computed so far."""
    fields = processes.status(pid)
    assert fields is not None
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the idle worker is watched")
    arguments = parser.parse_args()
    root = pathlib.Path(tempfile.mkdtemp(prefix="queue_scale_"))
    queue = jobs.Queue.open(root)
    fill(queue, arguments.jobs)
    assert len(queue.rows()) == arguments.jobs
    server = Server()
    found = {
        "jobs": arguments.jobs,
        "list_s": round(timed(9, queue.rows), 3),
        "list_cpu_s": round(timed(9, queue.rows, time.process_time), 3),
        "panel_s": round(timed(9, lambda: server.answer({"do": "rows", "queue": str(root)}, {})), 4),
        "command_s": round(timed(3, lambda: command("jobs", "list", "--queue", str(root))), 2),
        "command_help_s": round(timed(3, lambda: command("jobs", "--help")), 2),
    }
    worker = subprocess.Popen(processes.command("stem_ae", "worker", "--queue", str(root)))
    try:
        time.sleep(30)  # until it has nothing to do any more
        before = cpu_seconds(worker.pid)
        time.sleep(arguments.seconds)
        found["idle_worker_percent"] = round(100 * (cpu_seconds(worker.pid) - before) / arguments.seconds, 2)
    finally:
        worker.kill()
    print(json.dumps(found, indent=1))


def command(*words: str) -> None:
    """Run stem-ae as a user would."""
    subprocess.run([sys.executable, "-P", "-m", "stem_ae", *words], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
