"""Statements as SQLite takes them, for PostgreSQL."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import psycopg

from attractor_server.storage.sql import WAITING, Row, several

ROWS_LIMIT = 1024
"""Of one statement, which can have 65,535 values"""


class Statements:
    """A cursor of which each statement has results of its own. See `sql.Cursor`."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._results: psycopg.Cursor[Any] | None = None

    def execute(self, statement: str, values: Row = (), /) -> "Statements":
        """Runs it; what it yields is to be fetched."""
        self._results = self._connection.execute(translated(statement), values, binary=True)
        return self

    def executemany(self, statement: str, rows: Sequence[Row], /) -> None:
        """Runs it for each row of values; an INSERT of many rows as few statements, in powers of two."""
        single, start = statement.endswith(")") and " VALUES (" in statement, 0
        while single and start < len(rows):
            part = rows[start : start + min(ROWS_LIMIT, 1 << (len(rows) - start).bit_length() - 1)]
            marks, values = several(part)
            self.execute(f"{statement.rpartition('(')[0]}{marks}", values)
            start += len(part)
        if rows and not single:
            self._connection.cursor().executemany(translated(statement), rows)

    def fetchone(self) -> Any:  # noqa: ANN401 - columns of any types
        """The next row, or None."""
        assert self._results is not None
        return self._results.fetchone()

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        assert self._results is not None
        return self._results.fetchall()

    def __iter__(self) -> Iterator[Any]:
        """The rows that are left, one by one."""
        assert self._results is not None
        return iter(self._results)


@lru_cache
def translated(statement: str) -> bytes:
    """With `%s` where a value goes, and a lock where one waits."""
    return statement.replace("%", "%%").replace("?", "%s").replace(WAITING, "FOR NO KEY UPDATE").encode()
