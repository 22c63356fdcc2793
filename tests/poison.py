"""A malicious record: pickled in every column that dbos deserializes."""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import time

from stem_ae import StemAeError, jobs, processes, simulate
from stem_ae.jobs.record import PICKLED
from stem_ae.jobs.serve import Server

STATUSES = ("SUCCESS", "ERROR", "ENQUEUED", "PENDING", "DELAYED", "CANCELLED")


def cli(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "stem_ae", *map(str, words)], capture_output=True, text=True, timeout=120,
        env=processes.environment(),
    )  # fmt: skip


class Boom:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: pathlib.Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def pickled(mark: pathlib.Path) -> str:
    return base64.b64encode(pickle.dumps(Boom(mark))).decode()


def poison(execute, payload: str, numbers: list[str], prefix: str = "") -> None:
    """Pickle every column of the record that dbos deserializes, for jobs of every status.

    ``execute`` takes SQL with named parameters as SQLite and SQLAlchemy both write them.
    """
    for number, status in zip(numbers, STATUSES, strict=True):
        values = {"number": number, "status": status, "payload": payload, "me": socket.gethostname()}
        execute(
            f"UPDATE {prefix}workflow_status SET status = :status, serialization = 'py_pickle', inputs = :payload,"
            " output = :payload, error = :payload, executor_id = :me,"
            f" queue_name = CASE WHEN '{status}' IN ('SUCCESS', 'ERROR', 'CANCELLED') THEN NULL ELSE queue_name END"
            " WHERE workflow_uuid = :number", values,
        )  # fmt: skip
        for table, columns in (
            ("workflow_input", {"inputs": ":payload", "retention_timestamp": "0"}),
            ("workflow_output", {"output": ":payload", "error": ":payload", "retention_timestamp": "0"}),
            ("operation_outputs", {"function_id": "1", "function_name": "'x'", "output": ":payload",
                                   "error": ":payload", "serialization": "'py_pickle'", "retention_timestamp": "0"}),
            ("workflow_events", {"key": "'k'", "value": ":payload", "serialization": "'py_pickle'"}),
            ("workflow_events_history", {"key": "'k'", "value": ":payload", "function_id": "1",
                                         "serialization": "'py_pickle'"}),
            ("streams", {"key": "'k'", "value": ":payload", "\"offset\"": "0", "function_id": "1",
                         "serialization": "'py_pickle'"}),
        ):  # fmt: skip
            execute(f"DELETE FROM {prefix}{table} WHERE workflow_uuid = :number", values)
            names, marks = ", ".join(columns), ", ".join(columns.values())
            execute(f"INSERT INTO {prefix}{table} (workflow_uuid, {names}) VALUES (:number, {marks})", values)
        execute(
            f"INSERT INTO {prefix}notifications (destination_uuid, topic, message, created_at_epoch_ms, message_uuid,"
            " serialization) VALUES (:number, 't', :payload, 0, :number, 'py_pickle')", values,
        )  # fmt: skip
    execute(
        f"INSERT INTO {prefix}workflow_schedules (schedule_id, schedule_name, workflow_name, schedule, status, context)"
        " VALUES ('s', 's', 'calculate', '* * * * * *', 'ACTIVE', :payload)", {"payload": payload},
    )  # fmt: skip


def check_that_nothing_is_unpickled(queue: jobs.Queue, execute, mark: pathlib.Path, prefix: str = "") -> None:
    """List, look at, cancel, retry and work through a poisoned record by every way there is."""
    numbers = [queue.submit(simulate.Command("true"), title=status).id for status in STATUSES]
    good = queue.submit(simulate.Command("true"), title="good")
    poison(execute, pickled(mark), numbers, prefix)
    rows = {row.id: row for row in jobs.Queue.open(queue.root).rows()}
    assert {rows[number].error for number in numbers} == {PICKLED}
    listed = cli("jobs", "list", "--queue", queue.root)
    assert listed.stdout.count("pickled, which is not read") == len(numbers)
    server = Server()
    for do in ("rows", "engines"):
        server.answer({"do": do, "queue": str(queue.root)}, {})
    for number in numbers:
        for do in ("result", "cancel"):
            with contextlib.suppress(StemAeError):
                server.answer({"do": do, "queue": str(queue.root), "job": number}, {})
    worker = subprocess.Popen(
        processes.command("stem_ae", "worker", "--queue", str(queue.root)), env=processes.environment()
    )
    try:
        assert good.wait(90) == "finished"
        time.sleep(2)  # for a schedule, and whatever else asks now and then
        assert not mark.exists()
        for number in numbers:
            queue.retry(number)  # each has a way back
        assert [queue.job(number).wait(90) for number in numbers] == ["finished"] * len(numbers)
    finally:
        worker.kill()
        worker.wait()
    assert not mark.exists()
