"""Memories in the backend store: made, changed in groups, found again after a restart, and forgotten."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import apsw
import numpy as np

from attractor_server.storage.catalog import REMEMBERED_ANSWERS
from attractor_server.storage.database import Database
from attractor_server.storage.records import Change, Entry, Image, StoredMemory, StoredPage, Told, checked, checksum
from attractor_server.storage.settings import MemorySettings

Row: TypeAlias = tuple[int | str | bytes, ...]
_COLUMNS = (
    "id",
    "name",
    "model",
    "model_digest",
    "write",
    "when_full",
    "page_patterns",
    "created_s",
    "version",
    "patterns",
)


class Journal:
    """The memories of a backend store. Thread-safe; every method that changes something returns when it is on the disk.

    Its methods raise StoreFailed where the store cannot be used now, and StoreDamaged where a checksum is wrong.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, *, model: str, model_digest: str, settings: MemorySettings) -> StoredMemory:
        """The memory of that name, made now if there is none."""
        row = (name, model, model_digest, settings.write, settings.when_full, settings.page_patterns, time.time())
        with self._database.transaction() as cursor:
            cursor.execute(
                "INSERT INTO memories (name, model, model_digest, write, when_full, page_patterns, created_s) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
                row,
            )
            found = _found(cursor, name)
        assert found is not None
        return found

    def find(self, name: str) -> StoredMemory | None:
        """The memory of that name, or None."""
        with self._database.reading() as cursor:
            return _found(cursor, name)

    def names(self, *, prefix: str, after: str, size: int) -> Sequence[str]:
        """Up to `size` names with that prefix, beyond `after`, in their order by code points."""
        with self._database.reading() as cursor:
            rows = cursor.execute(
                "SELECT name FROM memories WHERE name > ?1 AND name >= ?2 AND substr(name, 1, length(?2)) = ?2 "
                "ORDER BY name LIMIT ?3",
                (after, prefix, size),
            ).fetchall()
        return [str(name) for (name,) in rows]

    def delete(self, memory: int) -> None:
        """Forgets a memory: no byte of its patterns stays in the files, once no other shard reads the log."""
        with self._database.transaction() as cursor:
            cursor.execute("DELETE FROM memories WHERE id = ?", (memory,))
        self._database.truncate_log()

    def commit(self, changes: Sequence[Change]) -> None:
        """All these changes or none. Of a memory that is no more nothing is kept."""
        with self._database.transaction() as cursor:
            for change in changes:
                if _counted(cursor, change):
                    _changed(cursor, change)

    def page(self, memory: int, number: int) -> StoredPage:
        """What that page's weights follow from."""
        with self._database.reading() as cursor:
            image = _image(cursor, memory, number)
            return StoredPage(image=image, entries=list(_entries(cursor, memory, number, image)))


def _found(cursor: apsw.Cursor, name: str) -> StoredMemory | None:
    row = cursor.execute(
        "SELECT id, name, model, model_digest, write, when_full, page_patterns, created_s, version, patterns "
        "FROM memories WHERE name = ?",
        (name,),
    ).fetchone()
    if row is None:
        return None
    memory = int(row[0])
    return StoredMemory(
        **dict(zip(_COLUMNS, row, strict=True)), pages=_pages(cursor, memory), told=_told(cursor, memory)
    )


def _pages(cursor: apsw.Cursor, memory: int) -> dict[int, int]:
    """Patterns of each page by its number, in their order."""
    rows = cursor.execute("SELECT number, patterns FROM pages WHERE memory = ? ORDER BY number", (memory,))
    return {int(number): int(patterns) for number, patterns in rows}


def _told(cursor: apsw.Cursor, memory: int) -> Sequence[Told]:
    rows = cursor.execute(
        "SELECT client, sequence, version, patterns, erases FROM answers WHERE memory = ? ORDER BY version", (memory,)
    )
    return [
        Told(client=client, sequence=sequence, version=version, patterns=patterns, erases=bool(erases))
        for client, sequence, version, patterns, erases in rows
    ]


def _counted(cursor: apsw.Cursor, change: Change) -> bool:
    """Whether the memory is there; if so it has the change's version from now on."""
    row = (change.version, change.patterns, change.memory)
    cursor.execute("UPDATE memories SET version = ?, patterns = ? WHERE id = ?", row)
    return cursor.connection.changes() == 1


def _changed(cursor: apsw.Cursor, change: Change) -> None:
    memory = change.memory
    cursor.executemany("DELETE FROM pages WHERE memory = ? AND number = ?", [(memory, page) for page in change.dropped])
    cursor.executemany("DELETE FROM entries WHERE memory = ? AND page = ?", [(memory, page) for page in change.emptied])
    cursor.executemany(
        "INSERT INTO pages VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET patterns = excluded.patterns",
        [(memory, page, patterns) for page, patterns in change.pages.items()],
    )
    cursor.executemany(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [_entry_row(memory, entry) for entry in change.entries]
    )
    cursor.executemany(
        "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?)", [_image_row(memory, image) for image in change.images]
    )
    for told in change.told:
        row = (memory, told.client, told.sequence, told.version, told.patterns, told.erases)
        cursor.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)
        old = (memory, told.client, told.sequence - REMEMBERED_ANSWERS)
        cursor.execute("DELETE FROM answers WHERE memory = ? AND client = ? AND sequence <= ?", old)


def _entry_row(memory: int, entry: Entry) -> Row:
    content = np.ascontiguousarray(entry.values, dtype="<f4").tobytes()
    mark = checksum(memory, entry.page, entry.version, content)
    return memory, entry.page, entry.version, entry.written, entry.erases, len(entry.values), content, mark


def _image_row(memory: int, image: Image) -> Row:
    mark = checksum(memory, image.page, image.version, image.content)
    return memory, image.page, image.version, image.content, mark


def _image(cursor: apsw.Cursor, memory: int, number: int) -> Image | None:
    row = cursor.execute(
        "SELECT version, content, checksum FROM images WHERE memory = ? AND page = ?", (memory, number)
    ).fetchone()
    if row is None:
        return None
    version, content, mark = row
    return Image(page=number, version=version, content=checked(memory, number, version, content, mark))


def _entries(cursor: apsw.Cursor, memory: int, page: int, image: Image | None) -> Iterator[Entry]:
    rows = cursor.execute(
        "SELECT version, written, erases, patterns, content, checksum FROM entries "
        "WHERE memory = ? AND page = ? AND version > ? ORDER BY version",
        (memory, page, 0 if image is None else image.version),
    )
    for version, written, erases, patterns, content, mark in rows:
        values = np.frombuffer(checked(memory, page, version, content, mark), "<f4").reshape(patterns, -1)
        yield Entry(page=page, version=version, written=written, values=values, erases=bool(erases))
