"""The queue loses nothing and does nothing twice, whatever dies."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import ase.build
import pytest

from stem_ae import StemAeError, jobs, simulate
from stem_ae.jobs.executors import held

pytest.importorskip("dbos")

HOME = pathlib.Path(__file__).parents[1]


@pytest.fixture
def queue(tmp_path) -> jobs.Queue:
    return jobs.Queue.open(tmp_path / "queue")


class Worker:
    """A worker process that can be killed and started again."""

    def __init__(self, queue: jobs.Queue, slots: int = 2) -> None:
        self.queue, self.slots = queue, slots
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stem_ae", "worker", "--queue", str(self.queue.root), "--slots", str(self.slots)],
            cwd=HOME, start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def worker(queue):
    worker = Worker(queue)
    yield worker
    worker.kill()
    for row in queue.rows():
        if row.state == "running":
            queue.cancel(row.id)


def until(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


def append(path: pathlib.Path, word: str, after: float = 0.0) -> simulate.Command:
    """A command that leaves one line in a file, as its last act."""
    code = f"import os,time; time.sleep({after}); os.write(os.open('{path}', 1089), b'{word} ')"  # append and create
    return simulate.Command(f'{sys.executable} -S -c "{code}"')


@pytest.mark.parametrize("library", [(3, 40, 1), (3, 45, 0)])
def test_an_old_sqlite_keeps_time_as_a_new_one_does(queue, monkeypatch, library):
    """Whichever library made the record; 3.45 stands for what this machine has if that has sub-seconds itself."""
    if library >= (3, 42) > sqlite3.sqlite_version_info:
        pytest.skip(f"SQLite {sqlite3.sqlite_version} has no sub-seconds")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", library)
    before = datetime.datetime.now()
    job = queue.submit(simulate.Command("true"))
    created = queue.row(job.id).created
    tolerance = datetime.timedelta(seconds=1.1)  # on Python 3.11 dbos counts whole seconds
    assert before - tolerance < created < datetime.datetime.now() + tolerance


def test_submit_without_worker_is_durable_and_quick(queue, tmp_path):
    queue.submit(append(tmp_path / "out", "x"))  # makes the record
    times = []
    for _ in range(20):
        start = time.process_time()
        job = queue.submit(append(tmp_path / "out", "x"))
        times.append(time.process_time() - start)
    assert sorted(times)[10] < 0.020
    # Another process sees it, and says that nobody works.
    script = f"from stem_ae import jobs; print(jobs.Queue.open({str(queue.root)!r}).job({job.id!r}).state)"
    seen = subprocess.run([sys.executable, "-c", script], cwd=HOME, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "queued"
    with pytest.raises(StemAeError, match="No worker is running"):
        job.wait(timeout=0.2)


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_repeat_nothing(queue, worker, tmp_path):
    out = tmp_path / "out"
    submitted = [queue.submit(append(out, str(k), after=0.05)) for k in range(12)]
    for _ in range(2):
        before = sum(row.state == "finished" for row in queue.rows())
        until(lambda before=before: sum(row.state == "finished" for row in queue.rows()) > before)
        worker.kill()
        worker.start()
    assert {job.wait(120) for job in submitted} == {"finished"}
    assert sorted(out.read_text().split(), key=int) == [str(k) for k in range(12)]


def test_a_calculation_outlives_its_worker_and_is_taken_over(queue, worker, tmp_path):
    job = queue.submit(append(tmp_path / "out", "once", after=4.0))
    until(lambda: held(job.calculation.folder))
    worker.kill()
    assert held(job.calculation.folder)
    worker.start()
    assert job.wait(90) == "finished"
    assert (tmp_path / "out").read_text().split() == ["once"]


def test_a_dying_process_is_started_again_up_to_the_limit(queue, worker, tmp_path):
    code = f"import os; os.write(os.open('{tmp_path / 'out'}', 1089), b'x '); os.kill(os.getppid(), 9)"
    job = queue.submit(simulate.Command(f'{sys.executable} -S -c "{code}"'), retries=1)
    assert job.wait(90) == "failed"
    assert (tmp_path / "out").read_text().split() == ["x", "x"]
    assert "died 2 times" in job.error
    with pytest.raises(StemAeError, match="died 2 times"):
        job.result()


def test_cancel_stops_the_process_and_its_children(queue, worker, tmp_path):
    mark = tmp_path / "child"
    inner = f"import os,time; open('{mark}','w').write(str(os.getpid())); time.sleep(60)"
    code = f"import subprocess,sys; subprocess.run([sys.executable,'-S','-c',{inner!r}])"
    script = tmp_path / "script.py"
    script.write_text(code)
    job = queue.submit(simulate.Command(f"{sys.executable} -S {script}"))
    until(lambda: mark.exists() and mark.read_text())
    waiting = queue.submit(append(tmp_path / "out", "never"), after=job)
    start = time.monotonic()
    job.cancel()
    assert time.monotonic() - start < 5
    assert job.state == "cancelled"
    until(lambda: not running(int(mark.read_text())), 5)
    assert waiting.wait(90) == "failed"
    assert f"needs job {job.id}" in waiting.error
    assert not (tmp_path / "out").exists()
    with pytest.raises(StemAeError, match="cancelled already"):
        job.cancel()


def running(pid: int) -> bool:
    status = pathlib.Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"


def test_cancel_of_a_queued_job_and_retry(queue, tmp_path):
    job = queue.submit(append(tmp_path / "out", "x"))
    job.cancel()
    assert job.state == "cancelled"
    job.retry()
    assert job.state == "queued"
    worker = Worker(queue)
    try:
        assert job.wait(90) == "finished"
    finally:
        worker.kill()
    with pytest.raises(StemAeError, match="only failed and cancelled"):
        job.retry()


def test_priorities_and_dependencies_order_the_work(queue, tmp_path):
    out = tmp_path / "out"
    last = queue.submit(append(out, "third"), priority=30)
    first = queue.submit(append(out, "first"), priority=1)
    second = queue.submit(append(out, "second"), priority=20)
    child = queue.submit(append(out, "child"), after=[last, first], priority=1)
    assert child.state == "waiting"
    worker = Worker(queue, slots=1)
    try:
        assert {job.wait(90) for job in (first, second, last, child)} == {"finished"}
    finally:
        worker.kill()
    assert out.read_text().split() == ["first", "second", "third", "child"]


def test_relax_then_dynamics_passes_the_structure_on(queue, worker):
    dimer = ase.Atoms("Cu2", [(0, 0, 0), (0, 0, 2.6)])
    dimer.center(vacuum=5)
    dimer.info["stem_ae"] = {"provenance": {"image": "frame 12", "model": "graphene 3"}}
    relaxed = queue.submit(simulate.Relax(engine="emt", fmax=1e-3), dimer)
    moved = queue.submit(simulate.MolecularDynamics(temperature=50, steps=20, engine="emt"), after=relaxed)
    assert moved.wait(90) == "finished", moved.error
    end = relaxed.result().atoms.get_distance(0, 1)
    assert moved.result().trajectory[0].get_distance(0, 1) == pytest.approx(end, abs=1e-6)
    origin = moved.result().summary["provenance"]
    assert origin["image"] == "frame 12"
    assert origin["parent"] == relaxed.id
    assert len(origin["hashes"]["structure"]) == 64


def test_impossible_tasks_are_refused_at_once(queue):
    benzene = ase.build.molecule("C6H6")
    for task, atoms, message in (
        (simulate.Relax(engine="vasp5"), benzene, "There is no engine 'vasp5'"),
        (simulate.Relax(), None, "no atoms"),
        (simulate.Relax(fixed="perimeter"), benzene, "no perimeter"),
        (simulate.Relax(fixed="upper half"), benzene, "'upper half'"),
        (simulate.Relax(cell=True), benzene, "no cell to relax"),
        (simulate.Relax(fmax=-1), benzene, "force limit"),
        (simulate.MolecularDynamics(temperature=-5), benzene, "must be positive"),
        (simulate.Adsorption(adsorbate=(99,)), benzene, "some, not all"),
        (simulate.Command(""), None, "no command"),
    ):
        with pytest.raises(StemAeError, match=message):
            queue.submit(task, atoms)
    assert queue.rows() == []


def test_a_full_disk_is_said_and_nothing_is_lost(queue, monkeypatch, tmp_path):
    kept = queue.submit(append(tmp_path / "out", "x"))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StemAeError, match=r"disk that holds .* is full"):
            queue.submit(append(tmp_path / "out", "y"))
    assert [row.id for row in queue.rows()] == [kept.id]
    leftovers = [path for path in queue.root.glob("jobs/*/.*")]
    assert leftovers == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: pathlib.Path) -> None:
    """Write until nothing more goes onto the disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_on_a_full_disk_a_job_waits_for_room_and_goes_on(small_disk):
    """Every write fails for a while; what runs says so, ends without harm, and ends as if nothing had been."""
    queue = jobs.Queue.open(small_disk / "queue")
    copper = ase.build.bulk("Cu", cubic=True) * (3, 3, 3)
    task = simulate.MolecularDynamics(temperature=300, steps=400, engine="emt", every=1)
    worker, ballast = Worker(queue), small_disk / "ballast"
    try:
        job = queue.submit(task, copper)
        until(lambda: (job.calculation.folder / "checkpoint.npz").exists() and job.progress.get("step", 0) > 5)
        fill(ballast)
        until(lambda: not held(job.calculation.folder))
        assert job.state == "running"
        assert "is full: free some space" in job.error
        with pytest.raises(StemAeError, match="is full: free some space and retry"):
            queue.submit(task, copper)
        time.sleep(3)  # more tries than are allowed, if they were counted
        ballast.unlink()
        assert job.wait(200) == "finished", job.error
        assert job.error == ""
        assert job.calculation.history()["step"].tolist() == list(range(401))
        assert len(job.result().trajectory) == 401
    finally:
        worker.kill()
        time.sleep(0.5)


def test_watch_tells_in_the_background(queue, tmp_path):
    changes, ended = [], []
    watch = jobs.Watch(queue, interval=0.05, changed=lambda: changes.append(threading.current_thread()),
                       ended=ended.append)  # fmt: skip
    try:
        job = queue.submit(append(tmp_path / "out", "x"), title="a title")
        until(lambda: watch.rows)
        assert watch.rows[0].title == "a title"
        job.cancel()
        until(lambda: ended)
        assert [(each.id, watch.rows[0].state) for each in ended] == [(job.id, "cancelled")]
        assert threading.main_thread() not in changes
    finally:
        watch.close()


def test_command_line(queue, worker, tmp_path):
    def cli(*words):
        return subprocess.run(
            [sys.executable, "-m", "stem_ae", *words, "--queue", str(queue.root)],
            cwd=HOME, capture_output=True, text=True, check=False,
        )  # fmt: skip

    job = queue.submit(append(tmp_path / "out", "x"), title="by hand")
    assert cli("jobs", "wait", job.id).returncode == 0
    assert "by hand" in cli("jobs", "list").stdout
    import json

    assert json.loads(cli("jobs", "show", job.id, "--json").stdout)["state"] == "finished"
    nowhere = cli("jobs", "next", job.id)
    assert nowhere.returncode == 2
    assert "has no structure" in nowhere.stderr
    missing = cli("jobs", "cancel", "nothing")
    assert missing.returncode == 2
    assert missing.stderr.startswith("stem-ae: There is no job 'nothing'")
    second = cli("worker")
    assert second.returncode == 2
    assert "Another worker" in second.stderr
