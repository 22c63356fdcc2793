"""The queue with its record in a real PostgreSQL, and workers of two machines on it.

Needs ``apt-get install postgresql``; as root the server runs as the user ``postgres``, as it insists on.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
import sqlalchemy
from poison import check_that_nothing_is_unpickled

from stem_ae import StemAeError, jobs, simulate
from stem_ae.jobs.executors import held

pytest.importorskip("psycopg")
pytest.importorskip("dbos")

HOME = pathlib.Path(__file__).parents[1]
BIN = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), default=pathlib.Path("/nowhere"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BIN / "initdb").exists(), reason="PostgreSQL is not installed"),
]

WORKER = """
import socket, sys
socket.gethostname = lambda: sys.argv[2]
from stem_ae import jobs
from stem_ae.jobs.worker import serve
serve(jobs.Queue.open(sys.argv[1]))
"""
"""A worker that takes itself for one on another machine."""


@pytest.fixture(scope="module")
def address():
    """A running server of its own; the address of its database."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="stem_ae_postgresql_"))  # not one of pytest's, which are root's alone
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    run = {"check": True, "capture_output": True, "cwd": folder}
    subprocess.run([*as_user, BIN / "initdb", "-A", "trust", "-U", "postgres", "-D", data], **run)
    server = subprocess.Popen(
        [*as_user, BIN / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while subprocess.run([BIN / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True).returncode:
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.2)
    yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/stem_ae"
    subprocess.run([*as_user, BIN / "pg_ctl", "-D", data, "-m", "fast", "stop"], **run)
    server.wait(20)
    shutil.rmtree(folder)


def start(queue: jobs.Queue, machine: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(queue.root), machine], cwd=HOME, start_new_session=True
    )


def test_two_machines_share_the_work_and_a_killed_one_loses_nothing(address, tmp_path):
    root, out = tmp_path / "queue", tmp_path / "out"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"database": address}))
    queue = jobs.Queue.open(root)
    workers = {machine: start(queue, machine) for machine in ("one", "two")}
    try:
        code = "import os,time; time.sleep(0.5); os.write(os.open('{out}', 1089), b'{k} ')"  # append and create
        submitted = [
            queue.submit(simulate.Command(f'{sys.executable} -S -c "{code.format(out=out, k=k)}"')) for k in range(12)
        ]
        time.sleep(4)
        os.kill(workers["one"].pid, signal.SIGKILL)
        workers["one"].wait()
        workers["one"] = start(queue, "one")
        assert [job.wait(120) for job in submitted] == ["finished"] * 12
    finally:
        for worker in workers.values():
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
    assert sorted(map(int, out.read_text().split())) == list(range(12))
    assert not (root / "queue.sqlite").exists()
    assert {path.name for path in (root / "workers").iterdir()} == {"one", "two"}


def test_another_machine_takes_over_what_a_dead_one_was_working_on(address, tmp_path):
    root, out = tmp_path / "queue", tmp_path / "out"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"database": address.replace("/stem_ae", "/taken_over")}))
    queue = jobs.Queue.open(root)
    code = f"import os,time; time.sleep(3); os.write(os.open('{out}', 1089), b'x ')"
    job = queue.submit(simulate.Command(f'{sys.executable} -S -c "{code}"'))
    dead = start(queue, "dead")
    deadline = time.monotonic() + 60
    while not held(job.calculation.folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(StemAeError, match="is at work: end it first"):
        queue.take_over("dead")
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    other = start(queue, "other")
    try:
        time.sleep(6)
        assert job.state == "running"  # nobody else knows that the machine is gone
        assert queue.take_over("dead") == [job.id]
        assert job.wait(60) == "finished"
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert out.read_text().split() == ["x"]
    assert queue.take_over("dead") == []


def test_no_row_of_the_record_is_unpickled(address, tmp_path):
    root = tmp_path / "queue"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"database": address.replace("/stem_ae", "/poisoned")}))
    queue = jobs.Queue.open(root)

    def execute(sql: str, values: dict[str, object]) -> None:
        with queue.record._engine.begin() as connection:
            connection.execute(sqlalchemy.text(sql), values)

    check_that_nothing_is_unpickled(queue, execute, tmp_path / "ran", prefix="dbos.")


def test_a_database_that_does_not_answer_is_one_sentence(tmp_path):
    root = tmp_path / "queue"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"database": "postgresql+psycopg://nobody@127.0.0.1:9/none"}))
    with pytest.raises(StemAeError, match="check that the database is reachable"):
        jobs.Queue.open(root).rows()
