"""Pages in the backend store, and what is in them: shared between forks and snapshots until one of them writes."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgpack
import numpy as np

from attractor_server.errors import StoreDamaged
from attractor_server.memories.records import NOTHING, Change, Entry, Image, Item, PageRow, StoredPage, checksum
from attractor_server.storage.database import WAITING, Cursor, Row, several

_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"

_IMAGE = (
    "INSERT INTO images VALUES (?, ?, ?, ?, ?) ON CONFLICT (content) DO UPDATE SET version = excluded.version, "
    "weights = excluded.weights, location = excluded.location, checksum = excluded.checksum"
)

_LEAVE = (
    "INSERT INTO leavings SELECT location FROM images WHERE content = ? AND location IS NOT NULL ON CONFLICT DO NOTHING"
)

_FOUND = "SELECT memory, number, content, shared FROM pages WHERE (memory, number) IN (VALUES {})"

_LEAVE_ALL = (
    "INSERT INTO leavings SELECT location FROM images WHERE content IN (VALUES {}) AND location IS NOT NULL "
    "ON CONFLICT DO NOTHING"
)

_WAIT = "SELECT id FROM contents WHERE id IN (VALUES {}) ORDER BY id " + WAITING  # noqa: S608  # a constant
"""For other shards that leave them now"""

_FORGET_ALL = (
    "DELETE FROM contents WHERE id IN (VALUES {}) AND NOT EXISTS (SELECT 1 FROM pages WHERE content = contents.id)"
)

STATEMENT_CONTENTS = 1024

_Place: TypeAlias = tuple[int, int]
"""A memory, and the number of a page of it"""


def rows_of(cursor: Cursor, memory: int) -> Sequence[PageRow]:
    """The pages of a memory, the oldest first."""
    rows = cursor.execute(
        "SELECT number, pages.patterns, images.version IS NOT NULL, EXISTS (SELECT 1 FROM entries "
        "WHERE entries.content = pages.content AND entries.version > coalesce(images.version, 0)) "
        "FROM pages LEFT JOIN images ON images.content = pages.content WHERE memory = ? ORDER BY number",
        (memory,),
    ).fetchall()
    return [
        PageRow(number=number, patterns=patterns, image=bool(image), entries=bool(entries))
        for number, patterns, image, entries in rows
    ]


def page_of(cursor: Cursor, memory: int, number: int, *, all_entries: bool = False) -> StoredPage:
    """What a page's weights follow from; with `all_entries` also what is in its image already.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    row = cursor.execute("SELECT content FROM pages WHERE memory = ? AND number = ?", (memory, number)).fetchone()
    if row is None:
        return StoredPage(image=None)
    where = f"memory {memory}, page {number}"
    image = _image(cursor, row[0], number, where)
    after = 0 if image is None or all_entries else image.version
    return StoredPage(image=image, entries=list(_entries(cursor, row[0], number, where, after=after)))


def entries_of(cursor: Cursor, memory: int, number: int) -> Sequence[Entry]:
    """All entries of a page, if they hold all its patterns: its weights follow from them; else none.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    row = cursor.execute(
        "SELECT content, patterns FROM pages WHERE memory = ? AND number = ?", (memory, number)
    ).fetchone()
    if row is None:
        return []
    entries = list(_entries(cursor, row[0], number, f"memory {memory}, page {number}", after=0))
    return entries if sum(len(entry.values) for entry in entries) == row[1] else []


def changed(cursor: Cursor, changes: Sequence[Change]) -> None:
    """Does to the pages of different memories what the changes say."""
    for change in changes:
        dropped(cursor, change.memory, change.dropped)
    contents = _own(
        cursor,
        [(one.memory, number) for one in changes for number in (*one.pages, *one.emptied)],
        emptied={(one.memory, number) for one in changes for number in one.emptied},
    )
    cursor.executemany(
        "UPDATE pages SET patterns = ? WHERE memory = ? AND number = ?",
        [(patterns, one.memory, number) for one in changes for number, patterns in one.pages.items()],
    )
    cursor.executemany(
        _ENTRY, [_entry_row(contents[one.memory, entry.page], entry) for one in changes for entry in one.entries]
    )
    cursor.executemany(_LEAVE, [(contents[one.memory, image.page],) for one in changes for image in one.images])
    cursor.executemany(
        _IMAGE, [_image_row(contents[one.memory, image.page], image) for one in changes for image in one.images]
    )


def shared(cursor: Cursor, memory: int, other: int) -> None:
    """Gives the other memory, which has no pages, those of the first; what is in them is theirs together."""
    cursor.execute("UPDATE pages SET shared = 1 WHERE memory = ?", (memory,))
    cursor.execute(
        "INSERT INTO pages SELECT ?, number, patterns, content, 1 FROM pages WHERE memory = ?", (other, memory)
    )


def dropped(cursor: Cursor, memory: int, numbers: Iterable[int]) -> None:
    """Takes pages away, and what is in them, unless others share it."""
    for number in numbers:
        row = cursor.execute(
            "DELETE FROM pages WHERE memory = ? AND number = ? RETURNING content, shared", (memory, number)
        ).fetchone()
        if row is not None:
            _forget(cursor, row[0], shared=bool(row[1]))


def all_dropped(cursor: Cursor, memory: int) -> None:
    """Takes all pages of a memory away."""
    rows = cursor.execute("SELECT number FROM pages WHERE memory = ?", (memory,)).fetchall()
    dropped(cursor, memory, [number for (number,) in rows])


def let_go(cursor: Cursor, memory: int) -> Sequence[tuple[int, bool]]:
    """What is in the pages of a memory and of its snapshots, and whether other pages may have the same."""
    return cursor.execute(
        "SELECT content, max(shared) FROM pages WHERE memory = ? "
        "OR memory IN (SELECT id FROM memories WHERE parent = ?) GROUP BY content ORDER BY content",
        (memory, memory),
    ).fetchall()


def forgotten(cursor: Cursor, found: Sequence[tuple[int, bool]]) -> None:
    """Takes contents away that no page has any more, in few statements however many there are."""
    for start in range(0, len(found), STATEMENT_CONTENTS):
        part = found[start : start + STATEMENT_CONTENTS]
        if shared := [(content,) for content, sharing in part if sharing]:
            marks, values = several(shared)
            cursor.execute(_WAIT.format(marks), values)
        marks, values = several([(content,) for content, _ in part])
        cursor.execute(_LEAVE_ALL.format(marks), values)
        cursor.execute(_FORGET_ALL.format(marks), values)


def shortened(cursor: Cursor, memory: int, pages: int) -> bool:
    """Takes up to so many pages of a memory away; whether it may have more."""
    rows = cursor.execute(
        "SELECT number FROM pages WHERE memory = ? ORDER BY number LIMIT ?", (memory, pages)
    ).fetchall()
    dropped(cursor, memory, [number for (number,) in rows])
    return len(rows) == pages


def _forget(cursor: Cursor, content: int, *, shared: bool) -> None:
    """Takes contents away that no page has; of two shards that leave them at the same time the second one does."""
    if shared:
        cursor.execute(_WAIT.format("(?)"), (content,))
    cursor.execute(_LEAVE, (content,))
    cursor.execute(
        "DELETE FROM contents WHERE id = ? AND NOT EXISTS (SELECT 1 FROM pages WHERE content = ?)", (content, content)
    )


def _own(cursor: Cursor, places: Sequence[_Place], *, emptied: Collection[_Place]) -> Mapping[_Place, int]:
    """The contents of these pages, made if need be, which each memory shares with nobody from now on."""
    contents = {}
    there = _there(cursor, places)
    for place in dict.fromkeys(places):
        old, sharing = there.get(place, (0, False))
        if not old:
            contents[place] = _made(cursor)
            cursor.execute("INSERT INTO pages VALUES (?, ?, 0, ?, 0)", (*place, contents[place]))
        elif place in emptied or sharing:
            contents[place] = _replaced(cursor, *place, old, empty=place in emptied)
            _forget(cursor, old, shared=sharing)
        else:
            contents[place] = old
    return contents


def _there(cursor: Cursor, places: Sequence[_Place]) -> Mapping[_Place, tuple[int, bool]]:
    """The contents of those of these pages that there are, and whether others share them."""
    if not places:
        return {}
    marks, values = several(places)
    rows = cursor.execute(_FOUND.format(marks), values).fetchall()
    return {(memory, number): (content, bool(sharing)) for memory, number, content, sharing in rows}


def _replaced(cursor: Cursor, memory: int, number: int, old: int, *, empty: bool) -> int:
    """New contents in the place of old ones: with nothing in them, or with the same."""
    new = _made(cursor)
    if not empty:
        _copied(cursor, old, new, f"memory {memory}, page {number}")
    cursor.execute("UPDATE pages SET content = ?, shared = 0 WHERE memory = ? AND number = ?", (new, memory, number))
    return new


def _made(cursor: Cursor) -> int:
    return int(cursor.execute("INSERT INTO contents DEFAULT VALUES RETURNING id").fetchone()[0])


def _copied(cursor: Cursor, old: int, new: int, where: str) -> None:
    entries = list(_entries(cursor, old, 0, where, after=0))
    cursor.executemany(_ENTRY, [_entry_row(new, entry) for entry in entries])
    if (image := _image(cursor, old, 0, where)) is not None:
        cursor.execute(_IMAGE, _image_row(new, image))


def _entry_row(content: int, entry: Entry) -> Row:
    vectors, items = np.ascontiguousarray(entry.values, dtype="<f4").tobytes(), _packed(entry.items)
    mark = checksum(content, entry.version, vectors, items)
    return content, entry.version, entry.written, len(entry.values), vectors, items, mark


def _image_row(content: int, image: Image) -> Row:
    if image.location:
        return content, image.version, None, image.location, checksum(content, image.version, image.location.encode())
    return content, image.version, image.content, None, checksum(content, image.version, image.content)


def _image(cursor: Cursor, content: int, page: int, where: str) -> Image | None:
    row = cursor.execute(
        "SELECT version, weights, location, checksum FROM images WHERE content = ?", (content,)
    ).fetchone()
    if row is None:
        return None
    version, weights, location, mark = row
    _check(checksum(content, version, weights or (location or "").encode()) == mark, where, version)
    return Image(page=page, version=version, content=weights or b"", location=location or "")


def _entries(cursor: Cursor, content: int, page: int, where: str, *, after: int) -> Iterator[Entry]:
    """Those of versions beyond `after`, the oldest first."""
    rows = cursor.execute(
        "SELECT version, written, patterns, vectors, items, checksum FROM entries "
        "WHERE content = ? AND version > ? ORDER BY version",
        (content, after),
    ).fetchall()
    for version, written, patterns, vectors, items, mark in rows:
        _check(checksum(content, version, vectors, items) == mark, where, version)
        values = np.frombuffer(vectors, "<f4").reshape(patterns, -1)
        yield Entry(page=page, version=version, written=written, values=values, items=unpacked(items))


def _check(right: bool, where: str, version: int) -> None:
    if not right:
        raise StoreDamaged(
            f"{where}, version {version}: what is stored has another checksum than it was stored with; "
            "restore the store from a backup, or delete the memory"
        )


def _packed(items: Sequence[Item]) -> bytes:
    """As they are stored; nothing where none carries anything."""
    if all(item == NOTHING for item in items):
        return b""
    content: bytes = msgpack.packb([(item.id, item.payload, item.json, *[True] * item.empty) for item in items])
    return content


def unpacked(stored: bytes) -> Sequence[Item]:
    """The inverse of `_packed`."""
    if not stored:
        return ()
    return [
        Item(id=name, payload=payload, json=json, empty=bool(empty))
        for name, payload, json, *empty in msgpack.unpackb(stored)
    ]
