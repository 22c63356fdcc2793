"""SQLite as dbos needs it, on systems whose SQLite is older than 3.42 (Debian 12's, for one).

From Python 3.12 on, dbos takes its time stamps from ``unixepoch('subsec')``, in its statements and as defaults of its
tables. Older libraries answer that with NULL, and no job could be submitted. This SQLAlchemy dialect, which only the
queue's own record uses, supplies the function.
"""

from __future__ import annotations

import pathlib
import sqlite3
import time
from collections.abc import Callable

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import DBAPIConnection

_HAS_SUBSECONDS = (3, 42)


class Dialect(SQLiteDialect_pysqlite):
    """Python's own SQLite with ``unixepoch('subsec')``."""

    supports_statement_cache = True

    def on_connect(self) -> Callable[[DBAPIConnection], None]:
        """Return what is done with each new connection."""
        usual = super().on_connect()

        def connected(connection: DBAPIConnection) -> None:
            usual(connection)
            connection.create_function("unixepoch", 1, _unixepoch)

        return connected


def _unixepoch(modifier: str) -> float:
    if modifier != "subsec":
        raise NotImplementedError(modifier)  # nobody asks for more, and another answer would be wrong
    return time.time_ns() // 1_000_000 / 1000


def address(path: pathlib.Path) -> str:
    """Return the address of a record in a file, for dbos."""
    if sqlite3.sqlite_version_info >= _HAS_SUBSECONDS:
        return f"sqlite:///{path}"
    registry.register("sqlite.stem_ae", __name__, Dialect.__name__)
    return f"sqlite+stem_ae:///{path}"
