"""The record of a queue: its jobs and their states.

dbos writes it, into a file of SQLite in the queue's folder or into a PostgreSQL that several machines share. It is read
with plain SQL. That is what lists thousands of jobs at once, needs no right to write, and executes nothing: dbos itself
unpickles whatever a row calls ``py_pickle``, and unpickling runs what somebody else may have written there. For the
rows that dbos has to read, the worker's, pickle is taken out of it (:func:`load_dbos`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import operator
import os
import pathlib
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from stem_ae.errors import StemAeError

if TYPE_CHECKING:
    from types import ModuleType

    import sqlalchemy
    from dbos import DBOSClient

WORKFLOW = "calculate"
QUEUE = "calculations"
VERSION = "1"
"""Version of the workflow: jobs queued by an earlier stem_ae run as long as it stays the same."""

FILE = "queue.sqlite"
FORMAT = "portable_json"
"""What dbos calls JSON."""
PICKLED = "Its row of the record is pickled, which is not read, since unpickling can run code: retry the job."

ACTIVE = ("DELAYED", "ENQUEUED", "PENDING")

_FAR_AWAY = 10 * 365 * 86400.0
"""Delay in seconds of a job that waits for another; the worker releases it when that one is over."""

_AT_ONCE = 500
"""Jobs named in one statement."""

Value = TypeVar("Value")


class Entry(NamedTuple):
    """One job's row, as it is written."""

    id: str
    status: str
    serialization: str | None
    created_at: int
    """Milliseconds since 1970."""
    priority: int | None
    executor: str | None
    """The machine that works on it, or did."""
    attributes: str | None
    output: str | None
    error: str | None

    @property
    def is_read(self) -> bool:
        """Whether it is JSON, and so can be read without harm."""
        return self.serialization in (None, FORMAT)


class Record:
    """The record of one queue. Any thread may use it.

    Parameters
    ----------
    root : path
        The queue's folder.
    database : str
        Address of a PostgreSQL; empty for the file in the folder.

    Raises
    ------
    StemAeError
        If the address is invalid.
    """

    def __init__(self, root: pathlib.Path, database: str = "") -> None:
        self._root = root
        self._file = root / FILE
        self._url = _parsed(database) if database else None
        self._lock = threading.RLock()
        self._opened: tuple[int, int] | None = None
        """Which file, or folder, was opened: another one of the same name holds other jobs."""
        self._connected: DBOSClient | None = None

    @property
    def address(self) -> str:
        """The address for dbos; with the password, if there is one."""
        if self._url is not None:
            return self._url.render_as_string(hide_password=False)
        from stem_ae.jobs import sqlite

        return sqlite.address(self._file)

    def __str__(self) -> str:
        """Return what users may read."""
        if self._url is None:
            return str(self._file)
        return f"in the database {self._url.database} on {self._url.host or 'this machine'}"

    @property
    def is_shared(self) -> bool:
        """Whether several machines may work on it."""
        return self._url is not None

    @property
    def exists(self) -> bool:
        """Whether there is one; taken for granted where it is a server's."""
        return self._url is not None or self._file.exists()

    def stamp(self) -> object:
        """Return a value that changes with the record; None where only reading it can tell."""
        if self._url is not None:
            return None
        return [_identity(path, with_time=True) for path in (self._file, self._file.with_name(f"{FILE}-wal"))]

    # --- read -----------------------------------------------------------------------------------------------------

    def entries(
        self, ids: Sequence[str] | None = None, statuses: Sequence[str] | None = None, newest: int | None = None
    ) -> list[Entry]:
        """Return the rows of some jobs or of all, newest first.

        Raises
        ------
        StemAeError
            If the record cannot be read.
        """
        if ids is not None and len(ids) > _AT_ONCE:
            parts = [ids[k : k + _AT_ONCE] for k in range(0, len(ids), _AT_ONCE)]
            return [entry for part in parts for entry in self.entries(part, statuses, newest)]
        conditions, values = ["name = :name"], {"name": WORKFLOW}
        for column, wanted in (("workflow_uuid", ids), ("status", statuses)):
            if wanted is not None:
                named = {f"{column}{k}": value for k, value in enumerate(wanted)}
                conditions.append(f"{column} IN ({', '.join(f':{name}' for name in named)})" if named else "1 = 0")
                values |= named
        order = ""
        if newest is not None:
            # Invalid numbers must not count. For a list of all rows it is faster to filter and sort afterwards.
            plain = "NOT GLOB '*[^-0-9A-Za-z_]*'" if self._url is None else "~ '^[-0-9A-Za-z_]+$'"
            conditions.append(f"workflow_uuid {plain}")
            order = f" ORDER BY created_at DESC, workflow_uuid DESC LIMIT {int(newest)}"
        found = self._read(
            "SELECT CAST(workflow_uuid AS TEXT), status, serialization, COALESCE(CAST(created_at AS BIGINT), 0),"
            f" priority, executor_id, CAST(attributes AS TEXT), output, error FROM {self._prefix}workflow_status"
            f" WHERE {' AND '.join(conditions)}{order}",
            values,
        )
        found = sorted(_with_job_numbers(found), key=operator.itemgetter(3, 0), reverse=True)
        is_over = statuses is None or not set(statuses) <= set(ACTIVE)
        outcomes = self._outcomes([row[0] for row in found] if len(found) <= _AT_ONCE else ids) if is_over else {}
        if outcomes:
            found = [(*row[:7], *outcomes[row[0]]) if row[0] in outcomes else row for row in found]
        return list(map(Entry._make, found))

    def _outcomes(self, ids: Sequence[str] | None) -> dict[str, tuple[str | None, str | None]]:
        """Return how jobs ended, except for the many that finished; read after the status, with which it is written."""
        values = {} if ids is None else {f"id{k}": value for k, value in enumerate(ids)}
        chosen = "" if ids is None else f" AND workflow_uuid IN ({', '.join(f':{name}' for name in values) or 'NULL'})"
        found = self._read(
            f"SELECT workflow_uuid, output, error FROM {self._prefix}workflow_output"
            f" WHERE (output IS NULL OR output <> '{{}}'){chosen}",
            values,
        )
        return {number: (output, error) for number, output, error in found}

    @property
    def _prefix(self) -> str:
        return "" if self._url is None else "dbos."

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are of each status.

        Raises
        ------
        StemAeError
            If the record cannot be read.
        """
        sql = f"SELECT status, COUNT(*) FROM {self._prefix}workflow_status WHERE name = :name GROUP BY status"
        return {str(status): int(number) for status, number in self._read(sql, {"name": WORKFLOW})}

    def _read(self, sql: str, values: dict[str, Any]) -> Sequence[Any]:
        if not self.exists:
            self._check_nothing_is_lost()
            return []
        with self._explained("be read"):
            if self._url is None:
                return self._read_file(sql, values)
            with self._engine.connect() as connection:
                import sqlalchemy

                return connection.execute(sqlalchemy.text(sql), values).fetchall()

    def _read_file(self, sql: str, values: dict[str, Any]) -> list[Any]:
        try:
            return _select(self._file, sql, values)
        except sqlite3.OperationalError as error:
            is_forbidden = "unable to open" in str(error) or "readonly" in str(error)
            if not is_forbidden or not self._file.exists():
                raise
        # SQLite keeps files of its own beside the record while it reads it: where it may not, a copy is read.
        with tempfile.TemporaryDirectory(prefix="stem_ae_record_") as scratch:
            for path in (self._file, self._file.with_name(f"{FILE}-wal")):
                if path.exists():
                    shutil.copyfile(path, pathlib.Path(scratch, path.name))
            return _select(pathlib.Path(scratch, FILE), sql, values)

    @functools.cached_property
    def _engine(self) -> sqlalchemy.Engine:
        import sqlalchemy

        assert self._url is not None
        return sqlalchemy.create_engine(self._url, pool_pre_ping=True, connect_args={"connect_timeout": 10})

    def _check_nothing_is_lost(self) -> None:
        """Raise StemAeError if there is no record, but jobs."""
        if not self._root.is_dir():
            raise StemAeError(_gone(self._root))
        if next(self._root.glob("jobs/*/input.json"), None):
            raise StemAeError(
                f"The record of the queue in {self._root} is lost, but its jobs are there: "
                f"'stem-ae jobs check --queue {self._root}' rebuilds it from them."
            )

    # --- write ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the record if there is none, and check that it is writable.

        Raises
        ------
        StemAeError
            If it cannot, or if it is not the one any more that was opened before.
        """
        self._client()

    def add(self, number: str, priority: int, attributes: dict[str, Any], waits: bool) -> None:
        """Queue a job: once this returns, only the loss of the disk can lose it.

        Parameters
        ----------
        number : str
            The job's.
        priority : int
            Small numbers first.
        attributes : dict
            What lists show.
        waits : bool
            Whether it is put off until :meth:`call`.

        Raises
        ------
        StemAeError
            If it cannot be written.
        """
        options: dict[str, Any] = {
            "queue_name": QUEUE, "workflow_name": WORKFLOW, "workflow_id": number, "priority": priority,
            "app_version": VERSION, "attributes": attributes,
        }  # fmt: skip
        if waits:
            options["delay_seconds"] = _FAR_AWAY
        self._write(lambda client: client.enqueue(options, number))  # type: ignore[arg-type]

    def call(self, number: str) -> None:
        """Release a waiting job."""
        self._write(lambda client: client.set_workflow_delay(number, delay_seconds=0.0))

    def cancel(self, number: str) -> None:
        """Take a job out of the queue, unless it is over."""
        self._write(lambda client: client.cancel_workflow(number))

    def retry(self, number: str) -> None:
        """Queue a job again that is over."""
        self._write(
            lambda client: client.rewind_workflow(number, application_version=VERSION, queue_name=QUEUE)
        )

    def resume(self, numbers: Sequence[str]) -> None:
        """Queue jobs again that are not over, such as those of a machine that is gone."""
        self._write(lambda client: client.resume_workflows(list(numbers), queue_name=QUEUE))

    def delete(self, numbers: Sequence[str]) -> None:
        """Forget jobs."""
        for k in range(0, len(numbers), _AT_ONCE):
            part = list(numbers[k : k + _AT_ONCE])
            self._write(lambda client, part=part: client.delete_workflows(part))  # type: ignore[misc]

    def close(self) -> None:
        """Close the file or the connection; the next use opens it again."""
        with self._lock:
            client, self._connected, self._opened = self._connected, None, None
            if client is not None:
                client.destroy()

    def _write(self, change: Callable[[DBOSClient], Value]) -> Value:
        client = self._client()
        with self._explained("be written"):
            done = change(client)
        # The file may have been deleted meanwhile, and what was written is gone with it.
        self._check_in_place()
        return done

    def _client(self) -> DBOSClient:
        with self._lock:
            if self._connected is None:
                self._connected = self._connect()
                self._opened = self._place()
            self._check_in_place()
            return self._connected

    def make_anew(self) -> None:
        """Make an empty record in place of one that is lost, for the jobs that are there.

        Raises
        ------
        StemAeError
            If it cannot be written.
        """
        with self._lock:
            self._connected = self._connect(is_expected=False)
            self._opened = self._place()

    def _connect(self, is_expected: bool = True) -> DBOSClient:
        """Open the record, and make it if there is none, which jobs without a record would not be expected to have."""
        from filelock import FileLock

        dbos = load_dbos()
        if is_expected and not self.exists:
            self._check_nothing_is_lost()
        with self._explained("be opened"), FileLock(self._root / "migration.lock"):
            if not self.exists:
                self._make_file(dbos)
            dbos.DBOS.migrate(self.address)
            client: DBOSClient = dbos.DBOSClient(
                system_database_url=self.address, serializer=dbos.DBOSPortableJSONSerializer(),
                retry_connection_errors=False,
            )  # fmt: skip
            return client

    def _make_file(self, dbos: ModuleType) -> None:
        """Make the file, which readers must not see before it is complete."""
        from stem_ae.jobs import sqlite

        new = self._root / f"{FILE}.new"
        new.unlink(missing_ok=True)
        dbos.DBOS.migrate(sqlite.address(new))
        with contextlib.closing(sqlite3.connect(new)) as connection:
            # Readers do not wait for writers then, and a commit waits for the disk once instead of three times.
            connection.execute("PRAGMA journal_mode=WAL")
        os.replace(new, self._file)

    def _place(self) -> tuple[int, int] | None:
        found = _identity(self._file if self._url is None else self._root)
        return None if found is None else (found[0], found[1])

    def _check_in_place(self) -> None:
        if self._opened is None or self._place() != self._opened:
            raise StemAeError(_gone(self._root))

    # --- errors ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn any error of SQLite, PostgreSQL and dbos into a sentence without a password."""
        try:
            yield
        except StemAeError:
            raise
        except Exception as error:
            sentence = self._sentence(error, what)
            raise StemAeError(sentence) from (error if self._url is None else None)  # an address has a password

    def _sentence(self, error: Exception, what: str) -> str:
        reason = self._first_line(error)
        if not self._root.is_dir():
            return _gone(self._root)
        if self._url is not None:
            return f"The queue's record {self} cannot {what} ({reason}): check that the database is reachable."
        if any(word in reason for word in ("not a database", "malformed", "no such table", "no such column")):
            return (
                f"The queue's record {self} is damaged ({reason}): 'stem-ae jobs check --queue {self._root}' sets it "
                "aside and rebuilds it from the jobs' folders."
            )
        code = getattr(error, "errno", None)
        if "disk is full" in reason or "disk I/O" in reason or code in (errno.ENOSPC, errno.EDQUOT):
            return f"The queue's record {self} cannot {what} ({reason}): check that the disk is not full."
        if "readonly" in reason or "unable to open" in reason or code in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"The queue's record {self} cannot {what} ({reason}): check that the folder is yours to write to."
        return f"The queue's record {self} cannot {what} ({reason}): try again."

    def _first_line(self, error: Exception) -> str:
        text = first_line(error)
        secrets = [] if self._url is None else [self._url.password, *map(str, self._url.query.values())]
        for secret in filter(None, secrets):
            text = text.replace(str(secret), "***")
        return text


def is_job_number(name: str) -> bool:
    """Return whether a word can be a job's number, and so a folder's name that stays inside the queue."""
    return name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()


def _with_job_numbers(rows: Sequence[Any]) -> Sequence[Any]:
    """Return the rows that begin with a job's number."""
    numbers = [row[0] for row in rows]
    if all(numbers) and is_job_number("".join(numbers)):  # all at once, since there may be many
        return rows
    return [row for row in rows if is_job_number(row[0])]


def first_line(error: object) -> str:
    """Return the beginning of what an error says."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def read_objects(texts: Sequence[str | None]) -> list[dict[str, Any]]:
    """Return the object of each of many JSON texts; an empty one for anything else."""
    try:
        found = json.loads(f"[{','.join(text or 'null' for text in texts)}]")  # ten times as quick as one by one
    except (ValueError, RecursionError):
        found = []
    if len(found) != len(texts):
        return [read_object(text) for text in texts]
    return [one if isinstance(one, dict) else {} for one in found]


def read_object(text: str | None) -> dict[str, Any]:
    """Return the object of a JSON text; an empty one for anything else."""
    if not text or text == "{}":
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _select(path: pathlib.Path, sql: str, values: dict[str, Any]) -> list[Any]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
        # A damaged text is shown as far as possible; it does not hide the other jobs.
        connection.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
        return connection.execute(sql, values).fetchall()


def _identity(path: pathlib.Path, with_time: bool = False) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, *((found.st_mtime_ns, found.st_size) if with_time else ()))


def _gone(root: pathlib.Path) -> str:
    return (
        f"The queue's folder {root} was deleted, moved or replaced since it was opened: nothing was submitted or "
        "changed. Put it back, or open the queue again to begin a new one."
    )


def _parsed(database: str) -> sqlalchemy.URL:
    """Return the address of a PostgreSQL.

    Raises
    ------
    StemAeError
        If it is invalid. The sentence does not repeat it, since it may contain a password.
    """
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(database)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() != "postgresql" or not url.database:
        raise StemAeError(
            "The database in the queue's config.json is not the address of a PostgreSQL, such as "
            "postgresql+psycopg://user@host/stem_ae."
        )
    return url


# --- dbos without pickle ----------------------------------------------------------------------------------------------


class _NoPickle:
    """Stands in for the module pickle in dbos."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise StemAeError(PICKLED)

        return refuse

    @staticmethod
    def dumps(value: object) -> bytes:
        """Return words in its place: dbos notes why it refuses a row in the row's own format."""
        return json.dumps(str(value)).encode()


def load_dbos() -> ModuleType:
    """Return dbos, with its pickle replaced by a refusal.

    Raises
    ------
    StemAeError
        If it is not installed, or is another one than this knows.
    """
    try:
        import dbos
        from dbos import _serialization
    except ImportError as error:
        raise StemAeError("The queue needs dbos: pip install 'stem_ae[simulate]'.") from error
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "dbos" and hasattr(module, "pickle"):
            module.pickle = _NoPickle()  # type: ignore[attr-defined]
    try:
        _serialization.deserialize_value("Ti4=", "py_pickle", dbos.DBOSPortableJSONSerializer())  # None, pickled
    except StemAeError:
        return dbos
    raise StemAeError("This dbos cannot be kept from unpickling what it reads: install another version of it.")
