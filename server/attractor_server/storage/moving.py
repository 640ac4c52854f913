"""Moving of a store into another one, from SQLite into PostgreSQL say: all rows as they are, in one transaction."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import apsw

from attractor_server.errors import SettingsError
from attractor_server.storage.artifacts import MODELS, Artifacts
from attractor_server.storage.backends.opening import backend_of, open_store
from attractor_server.storage.backends.postgres import PostgresDatabase
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.database import Cursor, Row, number
from attractor_server.storage.schema import SQLITE, tables

_NOT_MOVED: Final = frozenset({"groups", "counters"})
"""Tables of who owns what at the moment, and of what a store counts and draws for itself"""

_KEYS: Final[Mapping[str, Sequence[str]]] = {"texts": ("content", "version", "place", "length")}
"""Columns by which rows have an order that each database numbers for itself; its own index of their words follows"""

_LARGE_ROWS, _SMALL_ROWS = 16, 512
"""Rows read at a time, of tables with bytes or texts in them and of others"""

_IDS: Final[Mapping[str, Sequence[str]]] = {"memories": ("id", "origin", "family"), "contents": ("id",)}
"""Columns in which ids stand that a table has given: none is given twice"""


@dataclass(frozen=True)
class _Table:
    name: str
    columns: Sequence[str]
    key: Sequence[str]
    """Columns by which its rows have an order"""
    at_once: int
    """Rows to be read together"""


def move(source: str, target: str, report: Callable[[str, int], None] = lambda table, rows: None) -> None:
    """Copy all that the store at `source` has into the one at `target`; servers are kept out of both meanwhile.

    The source is brought to the newest format, and else left as it is. `report` is told how many rows each table had.

    Raises:
        SettingsError: the target keeps something already, or a server has one of them.
        StoreFailed: one of them cannot be used now; nothing is in the target.
    """
    theirs, ours = backend_of(source), backend_of(target)
    if source == target:
        raise SettingsError(f"TARGET: saw {ours.label(target)!r}, where the memories are; expected another store")
    with (
        theirs.lock(source),
        ours.lock(target),
        closing(open_store(source)) as full,
        closing(open_store(target)) as empty,
    ):
        if not isinstance(empty, PostgresDatabase | SqliteDatabase):
            raise SettingsError(f"TARGET: saw {ours.label(target)!r}; expected a folder, or postgresql://…")
        with empty.transaction() as writing:
            for table in _tables():
                if number(writing.execute(f"SELECT count(*) FROM {table.name}")):  # noqa: S608 - a name of ours
                    raise SettingsError(
                        f"TARGET: saw {ours.label(target)!r}, where something is kept ({table.name}); expected an "
                        "empty store"
                    )
            with full.read() as reading:  # which ends before the commit: a database may not wait for so long
                for table in _tables():
                    report(table.name, _copy(table, reading, writing))
                last = {name: _find_last_id(reading, name) for name in _IDS}
            for name, given in last.items():
                _continue_ids(empty, writing, name, given)


def move_artifacts(store: str, source: Artifacts, target: Artifacts) -> int:
    """Copy what the store refers to from one artifact store to another; return how many objects were copied."""
    with closing(open_store(store)) as opened, opened.read() as cursor:
        rows = cursor.execute("SELECT location FROM images WHERE location IS NOT NULL").fetchall()
    count = 0
    for location in (*(location for (location,) in rows), *source.locations(MODELS, before=datetime.now(UTC))):
        if not target.has(location) and (content := source.find(location)) is not None:
            target.put_at(location, content)
            count += 1
    return count


def _tables() -> Sequence[_Table]:
    """Return the tables of the newest format, each below those that it refers to, as SQLite itself tells of them."""
    connection = apsw.Connection(":memory:")
    connection.execute(tables(SQLITE))
    names = [
        str(name)
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master JOIN pragma_table_list USING (name) "
            "WHERE pragma_table_list.type = 'table' AND schema = 'main' AND name NOT LIKE 'sqlite_%' "
            "ORDER BY sqlite_master.rowid"
        )
    ]
    return [_describe(connection, name) for name in names if name not in _NOT_MOVED]


def _describe(connection: apsw.Connection, name: str) -> _Table:
    rows = connection.execute("SELECT name, type, pk FROM pragma_table_info(?) ORDER BY pk, cid", (name,)).fetchall()
    own = [str(column) for column, _, place in rows if place]
    numbered = own if name in _KEYS else []
    return _Table(
        name=name,
        columns=[str(column) for column, *_ in rows if column not in numbered],
        key=_KEYS.get(name, own),
        at_once=_LARGE_ROWS if numbered or any(kind == "BLOB" for _, kind, _ in rows) else _SMALL_ROWS,
    )


def _copy(table: _Table, reading: Cursor, writing: Cursor) -> int:
    """Copy the rows of a table; return how many there are. A snapshot may come before its memory is there."""
    parents: list[Row] = []
    count = 0
    columns = ", ".join(table.columns)
    marks = ", ".join("?" * len(table.columns))
    for rows in _read(table, reading):
        if "parent" in table.columns:
            place, own = table.columns.index("parent"), table.columns.index("id")
            parents.extend((row[place], row[own]) for row in rows if row[place] is not None)
            rows = [(*row[:place], None, *row[place + 1 :]) for row in rows]
        writing.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", rows)  # noqa: S608
        count += len(rows)
    if parents:
        writing.executemany(f"UPDATE {table.name} SET parent = ? WHERE id = ?", parents)  # noqa: S608
    return count


def _read(table: _Table, reading: Cursor) -> Iterator[Sequence[Row]]:
    """Yield the rows of a table, some at a time, in the order of their keys."""
    key, marks = ", ".join(table.key), ", ".join("?" * len(table.key))
    select = f"SELECT {', '.join(table.columns)} FROM {table.name}"  # noqa: S608 - names of ours
    places = [table.columns.index(column) for column in table.key]
    rest = f"ORDER BY {key} LIMIT {table.at_once}"
    rows = reading.execute(f"{select} {rest}").fetchall()
    while rows:
        yield rows
        last = [rows[-1][place] for place in places]
        rows = reading.execute(f"{select} WHERE ({key}) > ({marks}) {rest}", last).fetchall()


def _find_last_id(reading: Cursor, name: str) -> int:
    """Return the highest id that the table has given, as far as any row tells."""
    (row,) = reading.execute(f"SELECT {', '.join(f'max({one})' for one in _IDS[name])} FROM {name}").fetchall()  # noqa: S608
    return max(int(value or 0) for value in row)


def _continue_ids(store: PostgresDatabase | SqliteDatabase, writing: Cursor, name: str, last: int) -> None:
    """Have the table give higher ids than that."""
    if not last:
        return
    if isinstance(store, PostgresDatabase):
        writing.execute("SELECT setval(pg_get_serial_sequence(?, 'id'), ?)", (name, last))
    else:
        writing.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (last, name))
