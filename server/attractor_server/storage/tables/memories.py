"""Rows of memories."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from attractor_server.memories.records import Change, NewMemory, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.database import Cursor, several
from attractor_server.storage.tables import calls as call_rows
from attractor_server.storage.tables import pages as page_rows

STATEMENT_MEMORIES = 1024

_SELECT = (
    "SELECT id, name, model, model_digest, write, when_full, page_patterns, retain, metric, recall, ttl_s, "
    "created_s, expires_s, version, patterns FROM memories"
)

_COUNT = (
    "UPDATE memories SET version = column2, patterns = column3, expires_s = column4 + ttl_s "
    "FROM (VALUES {}) AS counts WHERE id = column1 RETURNING id"
)


def make(cursor: Cursor, memory: NewMemory, *, now_s: float) -> None:
    """Make a memory, unless there is one of that name."""
    settings = memory.settings
    cursor.execute(
        "INSERT INTO memories (name, model, model_digest, write, when_full, page_patterns, retain, metric, recall, "
        "ttl_s, created_s, expires_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
        (
            memory.name,
            memory.model,
            memory.model_digest,
            settings.write,
            settings.when_full,
            settings.page_patterns,
            settings.retain,
            settings.metric,
            settings.recall,
            settings.ttl_s,
            now_s,
            None if settings.ttl_s is None else now_s + settings.ttl_s,
        ),
    )


def find(cursor: Cursor, name: str) -> StoredMemory | None:
    """Return the memory of that name with all that is known of it, or None."""
    row = cursor.execute(f"{_SELECT} WHERE name = ? AND parent IS NULL", (name,)).fetchone()
    if row is None:
        return None
    memory = _memory(cursor, row)
    acks, former = call_rows.load_clients(cursor, memory.id)
    return replace(memory, told=acks, former=former)


def load(cursor: Cursor, identity: int) -> StoredMemory:
    """Load a memory or snapshot by its number; it must exist."""
    return _memory(cursor, cursor.execute(f"{_SELECT} WHERE id = ?", (identity,)).fetchone())


def names_of(cursor: Cursor, memories: Sequence[int]) -> Mapping[int, str]:
    """Return the names of the memories with these ids, of snapshots those of their memories; without deleted ones."""
    if not memories:
        return {}
    marks = ", ".join("?" * len(memories))
    rows = cursor.execute(f"SELECT id, name FROM memories WHERE id IN ({marks})", memories).fetchall()  # noqa: S608
    return {identity: name.partition("@")[0] for identity, name in rows}


def list_by_name(cursor: Cursor, *, prefix: str, after: str, size: int, flat: bool = False) -> Sequence[StoredMemory]:
    """Return memories in the order of names, where `flat` of those without a slash; without write acks."""
    only = "AND name NOT LIKE '%/%' " if flat else ""
    rows = cursor.execute(
        f"{_SELECT} WHERE name > ? AND name >= ? AND substr(name, 1, CAST(? AS INTEGER)) = ? AND parent IS NULL "
        f"{only}ORDER BY name LIMIT ?",
        (after, prefix, len(prefix), prefix, size),
    ).fetchall()
    return [_memory(cursor, row) for row in rows]


def list_by_number(cursor: Cursor, identity: int, *, size: int) -> Sequence[StoredMemory]:
    """Return memories and snapshots in the order in which they were made; without write acks."""
    rows = cursor.execute(f"{_SELECT} WHERE id > ? ORDER BY id LIMIT ?", (identity, size)).fetchall()
    return [_memory(cursor, row) for row in rows]


def list_models(cursor: Cursor) -> Iterator[tuple[str, str]]:
    """Yield names and digests of the models that memories and snapshots are of, each digest once."""
    digest = ""
    while (row := cursor.execute(_NEXT_MODEL, (digest,)).fetchone()) is not None:
        name, digest = row
        yield name, digest


_NEXT_MODEL = "SELECT model, model_digest FROM memories WHERE model_digest > ? ORDER BY model_digest LIMIT 1"


def find_expired(cursor: Cursor, *, now_s: float, size: int) -> Sequence[str]:
    """Return the names of memories whose time is over."""
    rows = cursor.execute(
        "SELECT name FROM memories WHERE expires_s < ? AND parent IS NULL ORDER BY expires_s LIMIT ?", (now_s, size)
    ).fetchall()
    return [name for (name,) in rows]


def split_by_memory(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Yield the changes in their order, cut where a memory comes again, or a statement would have too many values."""
    start, seen = 0, set[int]()
    for at, change in enumerate(changes):
        if change.memory in seen or len(seen) == STATEMENT_MEMORIES:
            yield changes[start:at]
            start, seen = at, set()
        seen.add(change.memory)
    if seen:
        yield changes[start:]


def update_counts(cursor: Cursor, changes: Sequence[Change], *, now_s: float) -> Sequence[Change]:
    """Give memories the version, patterns and model of their changes; return the changes of those that there are."""
    marks, values = several([(one.memory, one.version, one.patterns, now_s) for one in changes])
    there = {identity for (identity,) in cursor.execute(_COUNT.format(marks), values).fetchall()}
    left = [change for change in changes if change.memory in there]
    cursor.executemany(
        "UPDATE memories SET model = ?, model_digest = ?, page_patterns = ?, metric = ? WHERE id = ?",
        [
            (one.remade.model, one.remade.model_digest, one.remade.page_patterns, one.remade.metric, one.memory)
            for one in left
            if one.remade is not None
        ],
    )
    return left


def renew(cursor: Cursor, identity: int, *, now_s: float) -> None:
    """Begin the time of a memory anew."""
    cursor.execute("UPDATE memories SET expires_s = ? + ttl_s WHERE id = ?", (now_s, identity))


def _memory(cursor: Cursor, row: Sequence[Any]) -> StoredMemory:
    """Return the memory of a row of `_SELECT`."""
    identity, name, model, digest, write, when_full, page_patterns, retain, metric, recall, ttl_s, created_s = row[:12]
    return StoredMemory(
        id=identity,
        name=name,
        model=model,
        model_digest=digest,
        settings=MemorySettings(
            write=write,
            when_full=when_full,
            page_patterns=page_patterns,
            retain=retain,
            metric=metric,
            recall=recall,
            ttl_s=ttl_s,
        ),
        created_s=created_s,
        expires_s=row[12],
        version=row[13],
        patterns=row[14],
        pages=page_rows.rows_of(cursor, identity),
    )
