"""Nothing acknowledged is lost, whatever is deleted, truncated, filled up or killed; damage can be repaired."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import ase.build
import pytest
from poison import cli

from stem_ae import StemAeError, jobs, processes, simulate
from stem_ae.jobs import check
from stem_ae.jobs.executors import held
from stem_ae.jobs.queue import SUBMITTED
from stem_ae.jobs.serve import Server
from stem_ae.jobs.worker import supervise
from stem_ae.manipulate import RunLog
from stem_ae.simulate.calculation import Reporter
from stem_ae.simulate.running import run_folder

pytest.importorskip("dbos")


@pytest.fixture
def queue(tmp_path) -> jobs.Queue:
    return jobs.Queue.open(tmp_path / "queue")


def start_worker(root: pathlib.Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        processes.command("stem_ae", "worker", "--queue", str(root), *words), env=processes.environment(),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def until(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


def end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()
    assert worker.stderr is not None
    worker.stderr.close()


class InThisProcess:
    """An executor that calculates here, for tests of what becomes of files."""

    def start(self, folder: pathlib.Path) -> bool:
        run_folder(folder)
        return True

    def alive(self, folder: pathlib.Path) -> bool:
        return False

    def stop(self, folder: pathlib.Path) -> None:
        pass


def copper():
    return ase.build.bulk("Cu", cubic=True) * (2, 2, 2)


DYNAMICS = simulate.MolecularDynamics(temperature=300, steps=40, engine="emt", every=2)

# --- the queue's folder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "only the record"])
def test_a_queue_that_is_gone_acknowledges_nothing(queue, tmp_path, how):
    queue.submit(simulate.Command("true"))
    server = Server()
    server.answer({"do": "rows", "queue": str(queue.root)}, {})
    server._queues[str(queue.root)].record.open()
    if how == "only the record":
        (queue.root / "queue.sqlite").unlink()
    else:
        (shutil.rmtree if how == "deleted" else lambda path: path.rename(tmp_path / "elsewhere"))(queue.root)
    if how == "replaced":
        jobs.Queue.open(queue.root).submit(simulate.Command("true"))
    before = sorted(tmp_path.rglob("input.json"))
    with pytest.raises(StemAeError, match="deleted, moved or replaced"):
        queue.submit(simulate.Command("true"))
    with pytest.raises(StemAeError, match="deleted, moved or replaced"):
        server._check_in_place({"queue": str(queue.root)})
    assert sorted(tmp_path.rglob("input.json")) == before
    if how in ("deleted", "moved"):
        with pytest.raises(StemAeError, match="deleted, moved or replaced"):
            queue.rows()
        assert not queue.root.exists()
        server._check_in_place({"queue": str(queue.root)})  # the next one begins a new queue
        assert jobs.Queue.open(queue.root).submit(simulate.Command("true")).state == "queued"
    if how == "only the record":
        with pytest.raises(StemAeError, match="is lost, but its jobs are there: 'stem-ae jobs check"):
            jobs.Queue.open(queue.root).submit(simulate.Command("true"))


def test_looking_makes_no_queue(tmp_path):
    done = cli("jobs", "list", "--queue", tmp_path / "typo")
    assert done.returncode == 2
    assert "There is no queue in" in done.stderr
    assert not (tmp_path / "typo").exists()


def test_a_worker_whose_queue_is_gone_ends_with_a_sentence(queue):
    queue.submit(simulate.Command("true"))
    worker = start_worker(queue.root)
    try:
        until(lambda: queue.rows()[0].state == "finished")
        shutil.rmtree(queue.root)
        _, said = worker.communicate(timeout=60)
        assert worker.returncode == 2
        assert "was deleted or moved: the worker ends" in said
    finally:
        end(worker)
    assert not queue.root.exists()


def test_a_job_whose_folder_is_deleted_while_it_runs_fails_with_a_sentence_and_its_process_ends(queue):
    job = queue.submit(simulate.Command("sleep 600"))
    folder = job.calculation.folder
    worker = start_worker(queue.root)
    try:
        until(lambda: (folder / "alive").exists())
        pid = json.loads((folder / "process.json").read_text())["pid"]
        shutil.rmtree(folder)
        assert job.wait(60) == "failed"
        assert "was deleted or moved: submit it again" in job.error
        until(lambda: processes.identify(pid) is None, 30)
    finally:
        end(worker)


NAMES = ["run 1", "run%201", "what?a", "what?b", "a#b", "a%", "50%25", "x&y=z;:@", "Å µ", "a\\b", "'\"`", "%2e%2e"]


def test_every_folder_name_has_a_record_of_its_own(tmp_path):
    for k, name in enumerate(NAMES):
        jobs.Queue.open(tmp_path / name).submit(simulate.Command("true"), title=str(k))
    for k, name in enumerate(NAMES):
        assert [row.title for row in jobs.Queue.open(tmp_path / name).rows()] == [str(k)]
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
    worker = start_worker(tmp_path / "what?b", "--idle", "1")
    worker.communicate(timeout=90)
    states = {name: jobs.Queue.open(tmp_path / name).rows()[0].state for name in NAMES}
    assert states == {name: "finished" if name == "what?b" else "queued" for name in NAMES}


# --- damaged files ----------------------------------------------------------------------------------------------------


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x15
    path.write_bytes(bytes(content))


def scribble(path: pathlib.Path) -> None:
    path.write_bytes(os.urandom(500))


def delete(path: pathlib.Path) -> None:
    path.unlink()


DAMAGE = (cut, empty, flip, scribble, delete)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A dynamics that finished."""
    queue = jobs.Queue.open(tmp_path_factory.mktemp("finished") / "queue")
    job = queue.submit(DYNAMICS, copper())
    assert supervise(queue, InThisProcess(), job.id) == {}
    return job.calculation.folder


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A dynamics that was killed after some checkpoints."""
    folder = tmp_path_factory.mktemp("broken") / "20300101-000000-00000001"
    simulate.Calculation.create(folder, simulate.tasks.to_dict(DYNAMICS), copper(), {})
    checkpoint, kept = Reporter.checkpoint, []

    def ending(self, **arrays):
        checkpoint(self, **arrays)
        kept.append(arrays["steps"])
        if len(kept) == 20:
            raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "due", lambda self: True)
        patch.setattr(Reporter, "checkpoint", ending)
        with pytest.raises(SystemExit):
            run_folder(folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    "name", ["checkpoint.npz", "trajectory.extxyz", "history.csv", "progress.json", "input.json", "input.copy.json"]
)
def test_a_calculation_with_a_damaged_file_still_comes_to_the_same_end(
    broken_off, finished, tmp_path, monkeypatch, name, damage
):
    """The damaged file is set aside, not deleted, where it matters; nothing of it is in the result."""
    folder = tmp_path / "calculation"
    shutil.copytree(broken_off, folder)
    damage(folder / name)
    left = (folder / name).read_bytes() if (folder / name).exists() else None
    assert run_folder(folder) == 0, simulate.Calculation(folder).error()
    result = simulate.Result.read(folder)
    whole = simulate.Result.read(finished)
    assert result.atoms.positions == pytest.approx(whole.atoms.positions, abs=1e-9)
    if not (name == "trajectory.extxyz" and damage is flip):  # another digit of a frame that no digest was kept of yet
        assert len(result.trajectory) == 21
        assert [atoms.get_potential_energy() for atoms in result.trajectory] == pytest.approx(
            [atoms.get_potential_energy() for atoms in whole.trajectory], abs=1e-6
        )
    if name == "checkpoint.npz" and left:
        assert any(path.read_bytes() == left for path in (folder / "set_aside").rglob(name))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["result.json", "result.extxyz", "trajectory.extxyz"])
def test_a_damaged_result_is_seen_and_calculated_again(queue, finished, name, damage):
    job = queue.submit(DYNAMICS, copper())
    for path in finished.iterdir():
        if path.is_file() and path.name != "lock" and not path.name.startswith("input"):
            shutil.copy(path, job.calculation.folder)
    assert supervise(queue, InThisProcess(), job.id) == {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(queue), "_entry", lambda self, number: entry._replace(id=number))
        entry = queue.record.entries([job.id])[0]._replace(status="SUCCESS", output="{}")
        damage(job.calculation.folder / name)
        if name == "trajectory.extxyz":
            job.result()
            with pytest.raises(StemAeError, match=f"is damaged.*'stem-ae jobs retry {job.id}'"):
                _ = job.result().trajectory
        else:
            with pytest.raises(StemAeError, match=f"is damaged.*'stem-ae jobs retry {job.id}'|no result"):
                job.result()
        patch.setattr(queue.record, "retry", lambda number: None)
        job.retry()
    assert supervise(queue, InThisProcess(), job.id) == {}
    assert len(simulate.Result.read(job.calculation.folder).trajectory) == 21


def test_retry_from_the_start_sets_everything_aside(queue, tmp_path):
    job = queue.submit(DYNAMICS, copper())
    worker = start_worker(queue.root)
    try:
        assert job.wait(90) == "finished"
        with pytest.raises(StemAeError, match="only failed and cancelled jobs, and those with a damaged result"):
            job.retry()
        first = (job.calculation.folder / "result.json").read_bytes()
        done = cli("jobs", "retry", job.id, "--from-start", "--queue", queue.root)
        assert done.returncode == 0, done.stderr
        assert job.wait(90) == "finished"
    finally:
        end(worker)
    assert [path.read_bytes() for path in (job.calculation.folder / "set_aside").rglob("result.json")] == [first]
    assert job.calculation.history()["step"].tolist() == list(range(41))


NOTES = ["{", "[]", "7", "null", '"x"', "", "NaN", "[" * 100_000, '{"fraction": "x"}', '{"fraction": NaN, "step": 1}',
         '{"step": 1, "fraction": 7, "energy": 0, "fmax": 0, "temperature": 0, "seconds": 0}', "\x00\xff"]  # fmt: skip


@pytest.mark.parametrize("text", NOTES, ids=range(len(NOTES)))
def test_a_damaged_note_breaks_nothing(queue, text):
    job = queue.submit(simulate.Command("true"))
    for name in ("progress.json", "error.json", "attempts", "process.json"):
        (job.calculation.folder / name).write_bytes(text.encode("latin1"))
    entry = queue.record.entries()[0]._replace(status="PENDING")
    assert queue._rows([entry])[0].fraction == 0.0
    assert job.progress == {}
    assert job.calculation.history().size == 0
    assert supervise(queue, InThisProcess(), job.id) == {}


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_lost_or_damaged_record_is_made_anew_from_the_jobs(queue, tmp_path, damage):
    first = queue.submit(simulate.Command("true"), title="first", priority=3, retries=1)
    second = queue.submit(simulate.Command("true"), title="second", after=first)
    unknown = queue.submit(simulate.Command("true"), title="nobody was told")
    (unknown.calculation.folder / SUBMITTED).unlink()
    queue.record.close()
    for path in queue.root.glob("queue.sqlite-*"):
        path.unlink()
    if damage is flip:
        content = (queue.root / "queue.sqlite").read_bytes()
        (queue.root / "queue.sqlite").write_bytes(content[:100] + os.urandom(20_000) + content[20_100:])
    else:
        damage(queue.root / "queue.sqlite")
    left = (queue.root / "queue.sqlite").read_bytes() if (queue.root / "queue.sqlite").exists() else None
    done = cli("jobs", "list", "--queue", queue.root)
    assert done.returncode == 2
    assert "stem-ae jobs check" in done.stderr
    looked = cli("jobs", "check", "--dry-run", "--queue", queue.root)
    assert "rebuilt" in looked.stdout
    assert cli("jobs", "list", "--queue", queue.root).returncode == 2  # a look changes nothing
    done = cli("jobs", "check", "--queue", queue.root)
    assert done.returncode == 0, done.stdout + done.stderr
    queue = jobs.Queue.open(queue.root)
    rows = {row.id: row for row in queue.rows()}
    assert set(rows) == {first.id, second.id}
    row = rows[first.id]
    assert (row.title, row.priority, row.retries, row.state) == ("first", 3, 1, "queued")
    assert rows[second.id].after == (first.id,)
    assert rows[second.id].state == "waiting"
    if left is not None:
        assert [path.read_bytes() for path in (queue.root / "set_aside").rglob("queue.sqlite")] == [left]
    worker = start_worker(queue.root)
    try:
        assert queue.job(second.id).wait(90) == "finished"
    finally:
        end(worker)
    assert cli("jobs", "check", "--queue", queue.root).stdout.startswith("Nothing is lost or damaged.")


def test_check_finds_what_is_damaged_in_the_jobs_and_makes_a_backup(queue):
    folders = [queue.submit(simulate.Command("true"), title=str(k)).calculation.folder for k in range(5)]
    worker = start_worker(queue.root)
    try:
        until(lambda: all(row.state == "finished" for row in queue.rows()))
    finally:
        end(worker)
    (folders[0] / "result.json").unlink()
    flip(folders[1] / "result.json")
    empty(folders[2] / "input.json")
    queue.record.delete([folders[3].name])
    shutil.rmtree(folders[4])
    findings, backup = check.check(queue)
    assert {finding.job: finding.is_mended for finding in findings} == {
        folder.name: number != 4 for number, folder in enumerate(folders)
    }
    assert backup is not None
    assert len({row.id for row in queue.rows()}) == 5
    worker = start_worker(queue.root)
    try:
        until(lambda: all(row.state == "finished" for row in queue.rows()))
    finally:
        end(worker)
    for folder in folders[:4]:
        assert queue.job(folder.name).result().summary["task"]["kind"] == "command"
    assert [finding.job for finding in check.check(queue)[0]] == [folders[4].name]


def test_the_log_of_an_ejection_run_says_that_it_is_gone(tmp_path):
    log = RunLog(tmp_path / "run" / "run.jsonl")
    log.write("site", x=1.0)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    log.write("counts", durable=False, values=[1])  # the beam is on: it is not interrupted
    with pytest.raises(StemAeError, match="was deleted, moved or replaced: the run ends here"):
        log.write("site", x=2.0)
    log.close()
    assert len((tmp_path / "elsewhere" / "run.jsonl").read_text().splitlines()) == 4  # nothing of it is lost


# --- killed, left over, waiting ---------------------------------------------------------------------------------------


def test_folders_of_killed_submissions_are_removed_and_no_others(queue):
    kept = queue.submit(simulate.Command("true"))
    long_ago = time.time() - 2 * 3600
    orphans = []
    for k, age in enumerate((long_ago, time.time())):
        folder = queue.root / "jobs" / f"20250101-000000-0000000{k}"
        simulate.Calculation.create(folder, {"kind": "command", "command": "true"}, None, {}, {"title": "x"})
        os.utime(folder, (age, age))
        orphans.append(folder)
    os.utime(kept.calculation.folder, (long_ago, long_ago))
    assert check.remove_orphans(queue, remove=False) == [orphans[0].name]
    assert check.remove_orphans(queue) == [orphans[0].name]
    assert not orphans[0].exists()
    assert orphans[1].exists()  # it may be under way
    assert kept.calculation.folder.exists()


def test_old_jobs_are_removed_by_a_command_but_none_that_another_waits_for(queue):
    old, needed, young = (queue.submit(simulate.Command("true"), title=t) for t in ("old", "needed", "young"))
    queue.submit(simulate.Command("true"), after=needed)
    for job in (old, needed, young):
        job.cancel()
    import sqlite3

    with sqlite3.connect(queue.root / "queue.sqlite") as connection:
        for job in (old, needed):
            connection.execute("UPDATE workflow_status SET created_at = 0 WHERE workflow_uuid = ?", (job.id,))
    connection.close()
    looked = cli("jobs", "prune", "--older-than", "30", "--dry-run", "--queue", queue.root)
    assert "1 jobs" in looked.stdout
    assert old.calculation.folder.exists()
    done = cli("jobs", "prune", "--older-than", "30", "--json", "--queue", queue.root)
    assert json.loads(done.stdout)["jobs"] == [old.id]
    assert not old.calculation.folder.exists()
    assert needed.state == "cancelled"
    assert young.state == "cancelled"
    assert cli("jobs", "prune", "--older-than", "nan", "--queue", queue.root).returncode == 2


def test_waiting_without_a_worker_ends_with_a_sentence(queue, monkeypatch):
    monkeypatch.setattr(jobs.queue, "_WITHOUT_WORKER_S", 1.0)
    job = queue.submit(simulate.Command("sleep 600"))
    with pytest.raises(StemAeError, match="no worker is running: start one with 'stem-ae worker' and wait again"):
        job.wait()
    worker = start_worker(queue.root)
    try:
        until(lambda: held(job.calculation.folder))
        end(worker)
        start = time.monotonic()
        with pytest.raises(StemAeError, match="is still running, and no worker is running"):
            job.wait()
        assert time.monotonic() - start < 30
    finally:
        end(worker)
        job.cancel()
    with pytest.raises(StemAeError, match="The timeout is nan"):
        job.wait(timeout=float("nan"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_waiting_for_a_worker_that_hangs_ends_with_a_sentence(queue, monkeypatch):
    monkeypatch.setattr(jobs.queue, "_SILENT_WORKER_S", 7.0)
    worker = start_worker(queue.root)
    try:
        until(lambda: (queue.worker_folder / "alive").exists())
        job = queue.submit(simulate.Command("sleep 600"))
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(StemAeError, match=rf"\(process {worker.pid}\) does not answer"):
            job.wait()
    finally:
        end(worker)
        job.cancel()


def test_a_job_waits_only_for_jobs_of_its_own_queue(queue, tmp_path):
    other = jobs.Queue.open(tmp_path / "other").submit(simulate.Command("true"))
    with pytest.raises(StemAeError, match="is in another queue"):
        queue.submit(simulate.Command("true"), after=other)
    with pytest.raises(StemAeError, match="There is no job"):
        queue.submit(simulate.Command("true"), after=jobs.Job(queue, other.id))
    for wrong in ({"priority": 0}, {"priority": float("nan")}, {"priority": "x"}, {"retries": -1}, {"retries": 0.5}):
        with pytest.raises(StemAeError, match="is "):
            queue.submit(simulate.Command("true"), **wrong)
    assert queue.rows() == []
    (tmp_path / "link").symlink_to(queue.root)
    parent = jobs.Queue.open(tmp_path / "link").submit(simulate.Command("true"))
    assert queue.submit(simulate.Command("true"), after=parent).state == "waiting"  # the same by another name


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A disk of 96 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "as it was left"])
def test_a_queue_that_cannot_be_written_can_be_listed(disk, is_closed):
    last = "queue.record.close()" if is_closed else "os._exit(0)"  # which leaves SQLite's files of its own behind
    code = (
        "import os, sys; from stem_ae import jobs, simulate; queue = jobs.Queue.open(sys.argv[1]);"
        f"print(queue.submit(simulate.Command('true'), title='to be seen').id, flush=True); {last}"
    )
    python = [sys.executable, "-P", "-c", code, str(disk / "queue")]
    made = subprocess.run(python, env=processes.environment(), capture_output=True, text=True, check=True)
    queue = jobs.Queue.open(disk / "queue")
    job = queue.job(made.stdout.strip())
    assert (queue.root / "queue.sqlite-wal").exists() is not is_closed
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        done = cli("jobs", "list", "--queue", queue.root)
        assert "to be seen" in done.stdout, done.stderr
        assert cli("jobs", "show", job.id, "--queue", queue.root).returncode == 0
        assert not jobs.Queue.open(queue.root).worker_alive()
        with pytest.raises(StemAeError, match=r"check that the folder is yours|Cannot write"):
            jobs.Queue.open(queue.root).submit(simulate.Command("true"))
        said = cli("worker", "--queue", queue.root)
        assert said.returncode == 2
        assert said.stderr.startswith("stem-ae: The worker cannot write")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def test_a_worker_that_is_started_on_a_full_disk_waits_and_comes_back(disk):
    queue = jobs.Queue.open(disk / "queue")
    job = queue.submit(simulate.Command("true"))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(80_000_000))
    worker = start_worker(queue.root)
    try:
        time.sleep(4)
        assert worker.poll() is None
        assert job.state == "queued"
        ballast.unlink()
        assert job.wait(60) == "finished"
    finally:
        end(worker)
