"""Rows that find items by their id, or by the time when they are erased. Entries have the items themselves."""

from collections.abc import Mapping, Sequence

import msgpack

from attractor_server.memories.items import ItemPlace
from attractor_server.memories.records import Entry, Item
from attractor_server.storage.database import Cursor, Row, several

MIGRATED = 256
"""Entries that are read at a time while a store is brought up to date"""

_ADD = "INSERT INTO items (content, version, place, family, id, expires_s) VALUES (?, ?, ?, ?, ?, ?)"

_FIND = (
    "SELECT items.id, pages.number, items.version, items.place FROM items JOIN pages ON pages.content = items.content "
    "WHERE items.family = (SELECT coalesce(family, id) FROM memories WHERE id = ?) AND items.id IN (VALUES {}) "
    "AND +pages.memory = ? ORDER BY pages.number, items.version, items.place"  # by id first, whatever the statistics
)


def has_items(entry: Entry) -> bool:
    """Return whether the entry has items that are to be found."""
    return bool(describe(entry.items))


def describe(items: Sequence[Item]) -> Sequence[tuple[int, str, float | None]]:
    """Return the place, id and end of those items of an entry that are to be found."""
    found = [(place, _find_name(item.id), item.expires_s) for place, item in enumerate(items)]
    return [one for one in found if one[1] or one[2] is not None]


def _find_name(name: str) -> str:
    """Return the id that an item is found by: none for one with U+0000, which PostgreSQL keeps in no text."""
    return "" if "\0" in name else name


def add(cursor: Cursor, entries: Sequence[tuple[int, int, Entry]]) -> None:
    """Add the rows of entries, each with the number of its contents and a family."""
    rows: list[Row] = [
        (content, entry.version, place, family, name, expires_s)
        for content, family, entry in entries
        for place, name, expires_s in describe(entry.items)
    ]
    if rows:
        cursor.executemany(_ADD, rows)


def copy(cursor: Cursor, old: int, new: int) -> None:
    """Give new contents the rows of old ones, whose entries they have."""
    cursor.execute(
        "INSERT INTO items (content, version, place, family, id, expires_s) "
        "SELECT CAST(? AS BIGINT), version, place, family, id, expires_s FROM items WHERE content = ?",
        (new, old),
    )


def families_of(cursor: Cursor, memories: Sequence[int]) -> Mapping[int, int]:
    """Return the families of these memories."""
    if not memories:
        return {}
    marks, values = several([(memory,) for memory in memories])
    rows = cursor.execute(
        f"SELECT id, coalesce(family, id) FROM memories WHERE id IN (VALUES {marks})",  # noqa: S608  # marks
        values,
    ).fetchall()
    return dict(rows)


def find(cursor: Cursor, memory: int, ids: Sequence[str]) -> Sequence[tuple[str, ItemPlace]]:
    """Return the places of a memory's items with these ids, in the order of storing."""
    if not (names := [(one,) for one in ids if _find_name(one)]):
        return []
    marks, values = several(names)
    rows = cursor.execute(_FIND.format(marks), (memory, *values, memory)).fetchall()
    return [(name, ItemPlace(number, version, place)) for name, number, version, place in rows]


def find_expired_pages(cursor: Cursor, memory: int, now_s: float) -> Sequence[int]:
    """Return the numbers of a memory's pages that have items whose time is over."""
    rows = cursor.execute(
        "SELECT DISTINCT pages.number FROM items JOIN pages ON pages.content = items.content "
        "WHERE items.expires_s <= ? AND +pages.memory = ?",
        (now_s, memory),
    ).fetchall()
    return [number for (number,) in rows]


def find_with_expired(cursor: Cursor, *, now_s: float, size: int) -> Sequence[str]:
    """Return the names of memories that have items whose time is over; what snapshots have stays in them."""
    rows = cursor.execute(
        "SELECT DISTINCT memories.name FROM items JOIN pages ON pages.content = items.content "
        "JOIN memories ON memories.id = pages.memory WHERE items.expires_s <= ? AND parent IS NULL LIMIT ?",
        (now_s, size),
    ).fetchall()
    return [name for (name,) in rows]


def find_families(cursor: Cursor) -> None:
    """Give memories that share contents the number of one of them, as those have that were made so since format 5."""
    root: dict[int, int] = {}

    def find_root(memory: int) -> int:
        while (parent := root.setdefault(memory, memory)) != memory:
            root[memory] = root[parent]
            memory = parent
        return memory

    first: dict[int, int] = {}
    for memory, content in cursor.execute("SELECT memory, content FROM pages WHERE shared = 1").fetchall():
        one, other = sorted((find_root(memory), find_root(first.setdefault(content, memory))))
        root[other] = one
    cursor.executemany(
        "UPDATE memories SET family = ? WHERE id = ?",
        [(find_root(memory), memory) for memory in sorted(root) if find_root(memory) != memory],
    )


def index_entries(cursor: Cursor) -> None:
    """Add the rows of all entries of format 4; those that cannot be read are left to `attractor verify`."""
    content, version = -1, 0
    while found := cursor.execute(_ENTRIES, (content, content, version, MIGRATED)).fetchall():
        rows: list[Row] = []
        for content, version, family, items in found:
            rows += [
                (content, version, place, family, name, None) for place, name in enumerate(_read_ids(items)) if name
            ]
        if rows:
            cursor.executemany(_ADD, rows)


_ENTRIES = (
    "SELECT content, version, (SELECT min(coalesce(memories.family, memories.id)) FROM pages JOIN memories "
    "ON memories.id = pages.memory WHERE pages.content = entries.content), items FROM entries "
    "WHERE (content > ? OR (content = ? AND version > ?)) AND length(items) > 0 "
    "AND EXISTS (SELECT 1 FROM pages WHERE pages.content = entries.content) ORDER BY content, version LIMIT ?"
)


def _read_ids(items: bytes) -> Sequence[str]:
    try:
        return [_find_name(name) if isinstance(name, str) else "" for name, *_ in msgpack.unpackb(items)]
    except (ValueError, TypeError, msgpack.UnpackException):
        return []
