"""Malicious content of a queue is refused, and no other process is touched."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import traceback

import pytest
from poison import check_that_nothing_is_unpickled, cli, pickled

from stem_ae import StemAeError, jobs, processes, simulate
from stem_ae.jobs import executors
from stem_ae.jobs.executors import LocalExecutor, SlurmExecutor
from stem_ae.jobs.record import load_dbos
from stem_ae.terminal import printable

pytest.importorskip("dbos")

HOME = pathlib.Path(__file__).parents[1]
@pytest.fixture
def queue(tmp_path) -> jobs.Queue:
    return jobs.Queue.open(tmp_path / "queue")


# --- pickle -----------------------------------------------------------------------------------------------------------


def test_no_row_of_the_record_is_unpickled(queue, tmp_path):
    def execute(sql: str, values: dict[str, object]) -> None:
        with contextlib.closing(sqlite3.connect(queue.root / "queue.sqlite")) as connection:
            connection.execute(sql, values)
            connection.commit()

    check_that_nothing_is_unpickled(queue, execute, tmp_path / "ran")


def test_dbos_itself_cannot_unpickle_any_more(tmp_path):
    """Not by any of its functions that read a value, whatever serializer it is given."""
    from dbos import _serialization

    dbos, mark = load_dbos(), tmp_path / "ran"
    readers = {
        name: function
        for name, function in inspect.getmembers(_serialization, inspect.isfunction)
        if "deserialize" in name and "schedule" not in name
    }
    assert len(readers) >= 4
    for serializer in (dbos.DBOSPortableJSONSerializer(), _serialization.DefaultSerializer()):
        for name, read in readers.items():
            arguments = (pickled(mark), "py_pickle", serializer)
            if name == "safe_deserialize":
                names = ("serialized_input", "serialized_output", "serialized_exception")
                read(serializer, "py_pickle", "job", **dict.fromkeys(names, pickled(mark)))
            else:
                with pytest.raises(StemAeError, match="pickled"):
                    read(*arguments)
    with pytest.raises(StemAeError, match="pickled"):
        _serialization.DefaultSerializer().deserialize(pickled(mark))
    assert not mark.exists()


def test_a_row_leads_to_no_other_folder(queue, tmp_path):
    """Numbers that are paths, attributes that are none, states that nobody knows."""
    kept = queue.submit(simulate.Command("true"), title="kept")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "progress.json").write_text('{"step": 1, "fraction": 0.77}')
    with contextlib.closing(sqlite3.connect(queue.root / "queue.sqlite")) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(workflow_status)")]
        row = dict(zip(names, connection.execute("SELECT * FROM workflow_status").fetchone(), strict=True))
        strange: list[tuple[str, str, str | None]] = [
            ("../../elsewhere", "PENDING", row["attributes"]), ("a/b", "SUCCESS", row["attributes"]),
            ("20300101-000000-00000001", "NEW KIND", "[1, 2]"), ("20300101-000000-00000002", "PENDING", None),
            ("20300101-000000-00000003", "SUCCESS", '{"title": {"a": 1}, "after": 7, "retries": "x"}'),
            ("20300101-000000-00000004", "SUCCESS", "[" * 100_000), ("20300101-000000-00000005", "SUCCESS", "1,2"),
        ]  # fmt: skip
        for number, status, attributes in strange:
            row |= {"workflow_uuid": number, "status": status, "attributes": attributes}
            marks = ", ".join("?" * len(names))
            connection.execute(f"INSERT INTO workflow_status ({', '.join(names)}) VALUES ({marks})", [*row.values()])
        connection.commit()
    rows = {row.id: row for row in queue.rows()}
    assert set(rows) == {kept.id, *(number for number, _, _ in strange[2:])}
    assert rows[kept.id].title == "kept"
    assert rows[strange[2][0]].state == "failed"
    assert rows[strange[4][0]].after == ()
    for name in ("../../elsewhere", "", ".", "..", "/etc"):
        with pytest.raises(StemAeError, match="There is no job"):
            queue.job(name)
    with pytest.raises(StemAeError, match="No worker on a machine"):
        queue.take_over("../jobs")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("created_at", 10**18), ("created_at", -(10**18)), ("created_at", "yesterday"), ("created_at", b"\xff"),
        ("status", b"\xff"), ("priority", "high"), ("attributes", b"\xff\xfe"),
        ("attributes", json.dumps({"title": "x", "created": 10**400})),
        ("attributes", json.dumps({"title": "x", "created": -(10**17)})),
    ],
)  # fmt: skip
def test_a_damaged_row_does_not_hide_the_others(queue, column, value):
    kept, damaged = (queue.submit(simulate.Command("true"), title=title) for title in ("kept", "damaged"))
    with contextlib.closing(sqlite3.connect(queue.root / "queue.sqlite")) as connection:
        connection.execute(f"UPDATE workflow_status SET {column} = ? WHERE workflow_uuid = ?", (value, damaged.id))
        if isinstance(value, bytes):  # text that is none, as a bad disk makes it
            connection.execute(f"UPDATE workflow_status SET {column} = CAST({column} AS TEXT)")
        connection.commit()
    for newest in (None, 10):
        rows = {row.id: row for row in queue.rows(newest)}
        assert set(rows) == {kept.id, damaged.id}
        assert (rows[kept.id].title, rows[kept.id].state) == ("kept", "queued")


def test_a_list_is_sorted_and_cut_the_same_way(queue):
    for k in range(12):
        queue.submit(simulate.Command("true"), title=str(k))
    with contextlib.closing(sqlite3.connect(queue.root / "queue.sqlite")) as connection:
        connection.execute("UPDATE workflow_status SET created_at = created_at / 100 * 100")  # some at one time
        connection.execute(
            "UPDATE workflow_status SET workflow_uuid = '../' || workflow_uuid WHERE rowid IN (2, 11)"
        )  # fmt: skip
        connection.commit()
    whole = queue.rows()
    assert len(whole) == 10
    assert queue.rows(4) == whole[:4]
    assert queue.rows(10) == whole


# --- other processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def stranger():
    """A process of somebody else, in a group of its own."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_cancelling_signals_only_the_process_that_was_started(queue, stranger, monkeypatch):
    """Another machine's, an earlier boot's or a later process of the same number is left alone."""
    monkeypatch.setattr(executors, "_GRACE", 0.1)
    true = processes.identify(stranger.pid)
    assert true is not None
    for wrong in (
        {**true, "host": "another"}, {**true, "boot": "an earlier one"}, {**true, "started": "1"},
        {"pid": stranger.pid}, {**true, "pid": str(stranger.pid)}, {**true, "pid": -1}, {**true, "pid": 0},
        stranger.pid, None, [],
    ):  # fmt: skip
        job = queue.submit(simulate.Command("true"))
        folder = job.calculation.folder
        (folder / "process.json").write_text(json.dumps(wrong))
        (folder / "pid").write_text(str(stranger.pid))  # as an earlier version wrote it
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # somebody works on it, somewhere
            job.cancel()
        assert stranger.poll() is None, wrong
        assert job.state == "cancelled"
    job = queue.submit(simulate.Command("true"))
    (job.calculation.folder / "process.json").write_text(json.dumps(true))
    job.cancel()
    assert stranger.wait(5) != 0  # the very same one is ended


def test_cancelling_from_another_machine_ends_the_calculation_by_its_mark(queue, monkeypatch, tmp_path):
    """There its process cannot be reached: it looks for the mark itself, and takes its children with it."""
    job = queue.submit(simulate.Command("sleep 600"))
    folder, executor = job.calculation.folder, LocalExecutor()
    executor.start(folder)
    deadline = time.monotonic() + 60
    while not (folder / "alive").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.setattr(executors, "_GRACE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another")
        job.cancel()
    assert executor.alive(folder)
    while executor.alive(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has inherited")
def test_what_a_killed_calculation_left_running_is_ended_before_the_next_start(queue, tmp_path):
    """Else two engines would work in the same folder, and what is to happen once would happen twice."""
    out, script = tmp_path / "out", tmp_path / "engine.py"
    script.write_text(f"import os, time; open({str(out)!r} + str(os.getppid()), 'w'); time.sleep(600)")
    job = queue.submit(simulate.Command(f"{sys.executable} -S {script}"))
    folder, executor = job.calculation.folder, LocalExecutor()
    executor.start(folder)

    def engines() -> list[int]:
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(script).encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    deadline = time.monotonic() + 60
    while not engines():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first = engines()
    os.kill(json.loads((folder / "process.json").read_text())["pid"], 9)
    while executor.alive(folder):
        time.sleep(0.05)
    assert engines() == first  # it goes on without its parent
    assert executor.start(folder)
    while not set(engines()) - set(first):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not set(engines()) & set(first)
    executor.stop(folder)
    assert not engines()


def test_a_deleted_lock_does_not_start_a_calculation_twice(queue, tmp_path):
    job = queue.submit(simulate.Command("sleep 600"))
    folder, executor = job.calculation.folder, LocalExecutor()
    executor.start(folder)
    deadline = time.monotonic() + 60
    while not (folder / "process.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (folder / "lock").unlink()
    another_worker = LocalExecutor()
    assert another_worker.alive(folder)
    assert not another_worker.start(folder)
    job.cancel()
    assert not executor.alive(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="SIGSTOP, and how much a process has computed")
def test_a_calculation_that_hangs_is_ended_and_started_again(queue):
    job = queue.submit(simulate.Command("sleep 600"))
    folder, executor = job.calculation.folder, LocalExecutor(patience=2.5)
    executor.start(folder)
    deadline = time.monotonic() + 60
    while not (folder / "alive").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(40):  # longer than its patience: it is at work
        assert executor.alive(folder)
        time.sleep(0.1)
    os.kill(json.loads((folder / "process.json").read_text())["pid"], 19)
    while executor.alive(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "gave no sign of life" in job.calculation.log()
    assert executor.start(folder)
    executor.stop(folder)


# --- shells, terminals, passwords -------------------------------------------------------------------------------------

FAKE = """
import os, pathlib, subprocess, sys
home = pathlib.Path(__file__).parent
if pathlib.Path(sys.argv[0]).name == "sbatch":
    words = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
    script = home / "script"
    script.write_text("#!/bin/sh\\n" + sys.argv[sys.argv.index("--wrap") + 1] + "\\n")  # as Slurm does
    os.chdir(words["--chdir"])
    with open(words["--output"], "a") as log:
        subprocess.run(["sh", script], stdout=log, stderr=log, check=True)
    print("1")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm is for Unix")
@pytest.mark.parametrize(
    "name", ["a folder", "$(touch ran)", "it's; touch ran", 'a"b`touch ran`', "50 %j %%", "a\\b,c=d"]
)
def test_slurm_gets_any_folder_as_it_is(name, tmp_path, monkeypatch):
    """A stand-in for Slurm that runs the script it is given, in a shell, as Slurm does."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("sbatch", "squeue"):
        (programs / program).write_text(f"#!{sys.executable}\n{FAKE}")
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    folder = tmp_path / name / "20300101-000000-00000001"
    calculation = simulate.Calculation.create(folder, {"kind": "command", "command": "true"}, None, {})
    assert SlurmExecutor([]).start(folder)
    assert calculation.finished, calculation.log()
    assert not list(tmp_path.rglob("ran"))


def test_titles_and_errors_cannot_command_a_terminal(queue):
    evil = "\x1b]0;pwned\x07a\x1b[31mred\x1b[2J\r\n\x9b1;1Hb\u202e\x00 tab\tc"
    job = queue.submit(simulate.Command("true"), title=evil)
    with contextlib.closing(sqlite3.connect(queue.root / "queue.sqlite")) as connection:
        told = json.dumps({"title": evil, "retries": 0, "after": [], "image": evil})
        outcome = json.dumps({"error": evil})
        connection.execute("UPDATE workflow_status SET attributes = ?, status = 'SUCCESS', output = ?", (told, outcome))
        connection.commit()
    (job.calculation.folder / "log.txt").write_text(evil)
    looks = ("show", "log", "wait", "result")
    for words in (["list"], *([look, job.id] for look in looks), ["retry", "\x1b[5m"]):
        done = cli("jobs", words[0], *words[1:], "--queue", queue.root)
        printed = done.stdout + done.stderr
        assert printed.strip()
        assert not set(printed) & {chr(k) for k in [*range(9), *range(11, 32), *range(127, 160), 0x202E]}, words
    assert printable("Å ± 1 µm – “x”\n\ty") == "Å ± 1 µm – “x”\n\ty"


@pytest.mark.parametrize(
    "database",
    [
        "postgresql+psycopg://user:s3cret@127.0.0.1:9/none", "postgresql+psycopg://127.0.0.1:9/none?password=s3cret",
        "postgresql+psycopg://user:s3cret@127.0.0.1:port/none", "postgres//user:s3cret@nowhere", "sqlite:///s3cret",
        "mysql://user:s3cret@127.0.0.1/none", "postgresql+psycopg://user:s3cret@127.0.0.1:9/",
    ],
)  # fmt: skip
def test_no_error_tells_the_database_password(database, tmp_path):
    root = tmp_path / "queue"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"database": database}))
    attempts = (lambda: jobs.Queue.open(root).rows(), lambda: jobs.Queue.open(root).submit(simulate.Command("true")))
    for attempt in attempts:
        with pytest.raises(StemAeError, match="database") as caught:
            attempt()
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    with contextlib.suppress(StemAeError):
        assert "s3cret" not in repr(jobs.Queue.open(root).config)
    done = cli("jobs", "list", "--queue", root)
    assert done.returncode == 2
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"slots": 0}, "slots is 0"), ({"slots": "many"}, "slots is many"), ({"slots": True}, "slots"),
        ({"threads": -1}, "threads is -1"), ({"slurm": "--time=1"}, "list of words"), ({"slurm": [1]}, "list of words"),
        ({"executor": "cloud"}, "no executor 'cloud'"), ({"slot": 1}, "may set slots"), ([], "may set slots"),
        ({"database": 7}, "address"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_work_is_refused(content, sentence, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(StemAeError, match=sentence):
        jobs.Queue.open(tmp_path)
    assert textwrap.shorten(cli("jobs", "list", "--queue", tmp_path).stderr, 400).startswith("stem-ae:")


@pytest.mark.parametrize("words", [["--slots", "0"], ["--slots", "-3"], ["--idle", "nan"], ["--idle", "-1"]])
def test_a_worker_that_could_do_nothing_is_refused(words, tmp_path):
    done = cli("worker", "--queue", tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("stem-ae: The ")
