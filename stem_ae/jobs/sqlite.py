"""SQLite as dbos needs it: in a file of any name, and where it is older than 3.42 (on Debian 12, for one).

An address of SQLAlchemy's means something else by ``?``, ``#`` and ``%`` than a path does, and what it does with them
differs between versions. This SQLAlchemy dialect, which only the queue's own record uses, takes the path from a
parameter of the address, where every character can stand.

From Python 3.12 on, dbos takes its time stamps from ``unixepoch('subsec')``, in its statements and as defaults of its
tables. Older libraries answer that with NULL, and no job could be submitted. The dialect supplies the function.
"""

from __future__ import annotations

import pathlib
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Pool, QueuePool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import DBAPIConnection

_HAS_SUBSECONDS = (3, 42)


class Dialect(SQLiteDialect_pysqlite):
    """Python's own SQLite on the file that the address's parameter ``file`` names."""

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        """Return what :func:`sqlite3.connect` is called with."""
        return [url.query["file"]], {"check_same_thread": False}

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Return the pool for a database that is a file."""
        return QueuePool

    def on_connect(self) -> Callable[[DBAPIConnection], None]:
        """Return what is done with each new connection."""
        usual = super().on_connect()

        def connected(connection: DBAPIConnection) -> None:
            usual(connection)
            if sqlite3.sqlite_version_info < _HAS_SUBSECONDS:
                connection.create_function("unixepoch", 1, _unixepoch)

        return connected


def _unixepoch(modifier: str) -> float:
    if modifier != "subsec":
        raise NotImplementedError(modifier)  # nobody asks for more, and another answer would be wrong
    return time.time_ns() // 1_000_000 / 1000


def address(path: pathlib.Path) -> str:
    """Return the address of a record in a file, for dbos."""
    registry.register("sqlite.stem_ae", __name__, Dialect.__name__)
    url = URL.create("sqlite+stem_ae", database="record", query={"file": str(path)})
    return url.render_as_string(hide_password=False)
