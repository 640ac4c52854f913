"""Memories in the backend store: made, changed in groups, found again after a restart, and forgotten."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import apsw
import numpy as np

from attractor_server.storage.catalog import REMEMBERED_ANSWERS
from attractor_server.storage.database import Database
from attractor_server.storage.ownership import Ownership, names_of, whole
from attractor_server.storage.records import (
    Change,
    Entry,
    Image,
    NewMemory,
    PageRow,
    StoredMemory,
    StoredPage,
    Told,
    checked,
    checksum,
)
from attractor_server.storage.settings import MemorySettings

Row: TypeAlias = tuple[int | float | str | bytes, ...]
_SELECT = (
    "SELECT id, name, model, model_digest, write, when_full, page_patterns, created_s, version, patterns FROM memories"
)


class Journal:
    """The memories of a backend store. Thread-safe; every method that changes something returns when it is on the disk.

    Its methods raise StoreFailed where the store cannot be used now, StoreDamaged where a checksum is wrong, and those
    that change something OwnerChanged where another shard has claimed one of the memories since.
    """

    def __init__(self, database: Database, ownership: Ownership | None = None) -> None:
        """Changes what the `ownership` claims; without one everything, which no older journal can change any more."""
        self._database = database
        self.ownership = ownership or whole(database, "shard-0")

    def close(self) -> None:
        """Leaves the store."""
        self._database.close()

    def create(self, memories: Sequence[NewMemory]) -> Sequence[StoredMemory]:
        """The memories of those names, made now where there is none."""
        made_s = time.time()
        with self._changing(names=[memory.name for memory in memories]) as cursor:
            cursor.executemany(
                "INSERT INTO memories (name, model, model_digest, write, when_full, page_patterns, created_s) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
                [_memory_row(memory, made_s) for memory in memories],
            )
            found = [_found(cursor, memory.name) for memory in memories]
        return [memory for memory in found if memory is not None]

    def find(self, name: str) -> StoredMemory | None:
        """The memory of that name, or None."""
        with self._database.reading() as cursor:
            return _found(cursor, name)

    def listed(self, *, prefix: str, after: str, size: int) -> Sequence[StoredMemory]:
        """Up to `size` memories with that prefix and names beyond `after`, by name; without what clients were told."""
        with self._database.reading() as cursor:
            rows = cursor.execute(
                f"{_SELECT} WHERE name > ?1 AND name >= ?2 AND substr(name, 1, length(?2)) = ?2 ORDER BY name LIMIT ?3",
                (after, prefix, size),
            ).fetchall()
            return [_memory(cursor, row) for row in rows]

    def delete(self, memory: int) -> None:
        """Forgets a memory: no byte of its patterns stays in the files, once no other shard reads the log."""
        with self._changing(memories=[memory]) as cursor:
            cursor.execute("DELETE FROM memories WHERE id = ?", (memory,))
        self._database.truncate_log()

    def commit(self, changes: Sequence[Change]) -> None:
        """All these changes or none. Of a memory that is no more nothing is kept."""
        with self._changing(memories=[change.memory for change in changes]) as cursor:
            for change in changes:
                if _counted(cursor, change):
                    _changed(cursor, change)

    def page(self, memory: int, number: int) -> StoredPage:
        """What that page's weights follow from."""
        with self._database.reading() as cursor:
            image = _image(cursor, memory, number)
            return StoredPage(image=image, entries=list(_entries(cursor, memory, number, image)))

    @contextmanager
    def _changing(self, *, names: Sequence[str] = (), memories: Sequence[int] = ()) -> Iterator[apsw.Cursor]:
        """A transaction of the shard that owns the memories with these names, and those with these ids."""
        with self._database.transaction() as cursor:
            self.ownership.check(cursor, [*names, *names_of(cursor, memories)])
            yield cursor


def _memory_row(memory: NewMemory, made_s: float) -> Row:
    settings = memory.settings
    return (
        memory.name,
        memory.model,
        memory.model_digest,
        settings.write,
        settings.when_full,
        settings.page_patterns,
        made_s,
    )


def _found(cursor: apsw.Cursor, name: str) -> StoredMemory | None:
    row = cursor.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    memory = _memory(cursor, row)
    return replace(memory, told=_told(cursor, memory.id))


def _memory(cursor: apsw.Cursor, row: Sequence[Any]) -> StoredMemory:
    """Of a row of `_SELECT`."""
    identity, name, model, digest, write, when_full, page_patterns, created_s, version, patterns = row
    return StoredMemory(
        id=identity,
        name=name,
        model=model,
        model_digest=digest,
        settings=MemorySettings(write=write, when_full=when_full, page_patterns=page_patterns),
        created_s=created_s,
        version=version,
        patterns=patterns,
        pages=_pages(cursor, identity),
    )


def _pages(cursor: apsw.Cursor, memory: int) -> Sequence[PageRow]:
    rows = cursor.execute(
        "SELECT number, patterns, version IS NOT NULL, EXISTS (SELECT 1 FROM entries "
        "WHERE memory = pages.memory AND page = number AND version > coalesce(images.version, 0)) "
        "FROM pages LEFT JOIN images ON images.memory = pages.memory AND images.page = number "
        "WHERE pages.memory = ? ORDER BY number",
        (memory,),
    )
    return [
        PageRow(number=number, patterns=patterns, image=bool(image), entries=bool(entries))
        for number, patterns, image, entries in rows
    ]


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
    for page in change.emptied:
        cursor.execute("DELETE FROM entries WHERE memory = ? AND page = ?", (memory, page))
        cursor.execute("DELETE FROM images WHERE memory = ? AND page = ?", (memory, page))
    cursor.executemany(
        "INSERT INTO pages VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET patterns = excluded.patterns",
        [(memory, page, patterns) for page, patterns in change.pages.items()],
    )
    cursor.executemany(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", [_entry_row(memory, entry) for entry in change.entries]
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
    return memory, entry.page, entry.version, entry.written, len(entry.values), content, mark


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
        "SELECT version, written, patterns, content, checksum FROM entries "
        "WHERE memory = ? AND page = ? AND version > ? ORDER BY version",
        (memory, page, 0 if image is None else image.version),
    )
    for version, written, patterns, content, mark in rows:
        values = np.frombuffer(checked(memory, page, version, content, mark), "<f4").reshape(patterns, -1)
        yield Entry(page=page, version=version, written=written, values=values)
