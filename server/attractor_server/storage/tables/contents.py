"""Contents of pages: entries and images, with the checksums that tell damage; pages share them until one is written."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgpack
import numpy as np

from attractor_server.errors import StoreDamaged
from attractor_server.memories.records import NOTHING, Entry, Image, Item, checksum
from attractor_server.storage.database import WAITING, Cursor, Row, several
from attractor_server.storage.tables import items as item_rows
from attractor_server.storage.tables import texts as text_rows

_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"

_IMAGE = (
    "INSERT INTO images VALUES (?, ?, ?, ?, ?) ON CONFLICT (content) DO UPDATE SET version = excluded.version, "
    "weights = excluded.weights, location = excluded.location, checksum = excluded.checksum"
)

_LEAVE = (
    "INSERT INTO leavings SELECT location FROM images WHERE content = ? AND location IS NOT NULL ON CONFLICT DO NOTHING"
)

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


def make(cursor: Cursor) -> int:
    """Make contents with nothing in them; return their number."""
    return int(cursor.execute("INSERT INTO contents DEFAULT VALUES RETURNING id").fetchone()[0])


def copy(cursor: Cursor, old: int, new: int, where: str) -> None:
    """Give new contents the entries and the image of old ones, which `where` names in an error.

    Raises:
        StoreDamaged: a checksum is wrong.
    """
    cursor.executemany(_ENTRY, [_entry_row(new, entry) for entry in load_entries(cursor, old, 0, where)])
    item_rows.copy(cursor, old, new)
    text_rows.copy(cursor, old, new)
    if (image := load_image(cursor, old, 0, where)) is not None:
        cursor.execute(_IMAGE, _image_row(new, image))


def add_entries(cursor: Cursor, entries: Sequence[tuple[int, int, Entry]]) -> None:
    """Add entries, each to the contents of that number, which memories of a family have."""
    cursor.executemany(_ENTRY, [_entry_row(content, entry) for content, _, entry in entries])
    item_rows.add(cursor, entries)
    text_rows.add(cursor, entries)


def put_images(cursor: Cursor, images: Sequence[tuple[int, Image]]) -> None:
    """Put images, each in the place of the one that the contents of that number had."""
    cursor.executemany(_LEAVE, [(content,) for content, _ in images])
    cursor.executemany(_IMAGE, [_image_row(content, image) for content, image in images])


def load_image(cursor: Cursor, content: int, page: int, where: str) -> Image | None:
    """Return the image, as that of a page, or None if there is none.

    Raises:
        StoreDamaged: its checksum is wrong; `where` names the page in the error.
    """
    row = cursor.execute(
        "SELECT version, weights, location, checksum FROM images WHERE content = ?", (content,)
    ).fetchone()
    if row is None:
        return None
    version, weights, location, mark = row
    _check(checksum(content, version, weights or (location or "").encode()) == mark, where, version)
    return Image(page=page, version=version, content=weights or b"", location=location or "")


def load_entries(cursor: Cursor, content: int, page: int, where: str, *, after: int = 0) -> Iterator[Entry]:
    """Yield the entries of versions beyond `after`, the oldest first, as those of that page.

    Raises:
        StoreDamaged: a checksum is wrong; `where` names the page in the error.
    """
    rows = cursor.execute(
        "SELECT version, written, patterns, vectors, items, checksum FROM entries "
        "WHERE content = ? AND version > ? ORDER BY version",
        (content, after),
    ).fetchall()
    for version, written, patterns, vectors, items, mark in rows:
        _check(checksum(content, version, vectors, items) == mark, where, version)
        values = np.frombuffer(vectors, "<f4").reshape(patterns, -1)
        yield Entry(page=page, version=version, written=written, values=values, items=unpack_items(items))


def touch(  # noqa: PLR0913
    cursor: Cursor, content: int, version: int, rows: Sequence[int], expires_s: float | None, where: str
) -> None:
    """Give items of an entry another end.

    Raises:
        StoreDamaged: its checksum is wrong; `where` names the page in the error.
    """
    vectors, packed, mark = cursor.execute(
        "SELECT vectors, items, checksum FROM entries WHERE content = ? AND version = ?", (content, version)
    ).fetchone()
    _check(checksum(content, version, vectors, packed) == mark, where, version)
    items = list(unpack_items(packed))
    for row in rows:
        items[row] = replace(items[row], expires_s=expires_s)
    packed = _pack_items(items)
    cursor.execute(
        "UPDATE entries SET items = ?, checksum = ? WHERE content = ? AND version = ?",
        (packed, checksum(content, version, vectors, packed), content, version),
    )
    cursor.executemany(
        "UPDATE items SET expires_s = ? WHERE content = ? AND version = ? AND place = ?",
        [(expires_s, content, version, row) for row in rows],
    )


def unpack_items(stored: bytes) -> Sequence[Item]:
    """Decode what `_pack_items` encoded."""
    if not stored:
        return ()
    return [_unpack_item(*values) for values in msgpack.unpackb(stored)]


def forget(cursor: Cursor, content: int, *, shared: bool) -> None:
    """Take contents away if no page has them; of two shards that leave them at the same time the second one does."""
    if shared:
        cursor.execute(_WAIT.format("(?)"), (content,))
    cursor.execute(_LEAVE, (content,))
    cursor.execute(
        "DELETE FROM contents WHERE id = ? AND NOT EXISTS (SELECT 1 FROM pages WHERE content = ?)", (content, content)
    )


def forget_all(cursor: Cursor, found: Sequence[tuple[int, bool]]) -> None:
    """Take contents away that no page has any more, in few statements however many there are."""
    for start in range(0, len(found), STATEMENT_CONTENTS):
        part = found[start : start + STATEMENT_CONTENTS]
        if shared := [(content,) for content, sharing in part if sharing]:
            marks, values = several(shared)
            cursor.execute(_WAIT.format(marks), values)
        marks, values = several([(content,) for content, _ in part])
        cursor.execute(_LEAVE_ALL.format(marks), values)
        cursor.execute(_FORGET_ALL.format(marks), values)


def _entry_row(content: int, entry: Entry) -> Row:
    vectors, items = np.ascontiguousarray(entry.values, dtype="<f4").tobytes(), _pack_items(entry.items)
    mark = checksum(content, entry.version, vectors, items)
    return content, entry.version, entry.written, len(entry.values), vectors, items, mark


def _image_row(content: int, image: Image) -> Row:
    if image.location:
        return content, image.version, None, image.location, checksum(content, image.version, image.location.encode())
    return content, image.version, image.content, None, checksum(content, image.version, image.content)


def _check(right: bool, where: str, version: int) -> None:
    if not right:
        raise StoreDamaged(
            f"{where}, version {version}: what is stored has another checksum than it was stored with; "
            "restore the store from a backup, or delete the memory"
        )


def _pack_items(items: Sequence[Item]) -> bytes:
    """Encode items as they are stored; as no bytes where none carries anything."""
    if all(item == NOTHING for item in items):
        return b""
    content: bytes = msgpack.packb([_item_values(item) for item in items])
    return content


def _item_values(item: Item) -> tuple[object, ...]:
    """Return what is stored of an item; times and text only where there are any."""
    if not item.created_s and item.expires_s is None and not item.text:
        return (item.id, item.payload, item.json, *[True] * item.empty)
    times = item.created_s, item.updated_s, item.expires_s
    return (item.id, item.payload, item.json, item.empty, *times, *[item.text] * bool(item.text))


def _unpack_item(  # noqa: PLR0913 - as it is stored
    name: str,
    payload: bytes,
    json: bool,
    empty: bool = False,
    created_s: float = 0.0,
    updated_s: float = 0.0,
    expires_s: float | None = None,
    text: str = "",
) -> Item:
    return Item(
        id=name,
        payload=payload,
        json=json,
        empty=empty,
        created_s=created_s,
        updated_s=updated_s,
        expires_s=expires_s,
        text=text,
    )
