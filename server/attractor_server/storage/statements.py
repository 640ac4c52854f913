"""Statements as SQLite takes them, for PostgreSQL."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import psycopg

from attractor_server.storage.sql import Row


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
        """Runs it for each row of values."""
        if rows:
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
    """With `%s` where a value goes."""
    return statement.replace("%", "%%").replace("?", "%s").encode()
