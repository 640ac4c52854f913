"""Drafts: memories that arrive, or are changed or deleted, page by page. Nobody reaches them meanwhile."""

import uuid
from collections.abc import Sequence

from attractor_server.errors import MemoryNotFound, NameTaken
from attractor_server.memories.items import LOOSE_PAGES
from attractor_server.memories.records import NewMemory, StoredMemory
from attractor_server.storage.database import Cursor
from attractor_server.storage.tables import memories as memory_rows

ABANDONED_AFTER_S = 86_400.0
"""Whoever sends a memory for longer than that has died"""

LEFTOVERS = 64

_DRAFTS = "@", "A"
"""What the names of drafts begin with, and what is beyond all of them"""

_GONE = "@gone-", "@gone."
"""What the names of drafts that nobody will finish begin with, and what is beyond all of them"""


def begin(cursor: Cursor, memory: StoredMemory, *, now_s: float) -> int:
    """Make the row, its own parent, so that it counts as nobody's; return its number.

    It is of the family of the memory with that id, which is to get its pages; without an id, of its own.
    """
    name = f"@{uuid.uuid4().hex}"
    new = NewMemory(name=name, model=memory.model, model_digest=memory.model_digest, settings=memory.settings)
    memory_rows.make(cursor, new, now_s=now_s)
    row = cursor.execute(
        "UPDATE memories SET parent = id, version = ?, patterns = ?, "
        "family = (SELECT coalesce(family, id) FROM memories AS other WHERE other.id = ?) WHERE name = ? RETURNING id",
        (memory.version, memory.patterns, memory.id, name),
    ).fetchone()
    return int(row[0])


def advance(cursor: Cursor, draft: int, version: int) -> None:
    """Note that the draft has pages of that version."""
    cursor.execute("UPDATE memories SET version = ? WHERE id = ? AND version < ?", (version, draft, version))


def end(cursor: Cursor, memory: int, name: str) -> StoredMemory:
    """Give the memory its name."""
    if cursor.execute("SELECT 1 FROM memories WHERE name = ?", (name,)).fetchone() is not None:
        raise NameTaken(f"memory {name!r} exists; import it under another name, or delete that one first")
    cursor.execute("UPDATE memories SET parent = NULL, name = ? WHERE id = ?", (name, memory))
    found = memory_rows.find(cursor, name)
    assert found is not None
    return found


def abandon(cursor: Cursor, memory: int, *, now_s: float) -> None:
    """Make a memory, with its snapshots, one that nobody reaches."""
    name = f"{_GONE[0]}{uuid.uuid4().hex}"
    cursor.execute(
        "UPDATE memories SET name = CAST(? AS TEXT) || id WHERE parent = ? AND id <> ?", (f"{name}@", memory, memory)
    )
    cursor.execute(
        "UPDATE memories SET name = ?, parent = id, created_s = ?, expires_s = NULL WHERE id = ?", (name, now_s, memory)
    )


def exchange(cursor: Cursor, memory: int, draft: int) -> None:
    """Exchange the pages of a memory and a draft, which gets the model that they are of."""
    row = cursor.execute(
        "SELECT model, model_digest, page_patterns, version, patterns FROM memories WHERE id = ?", (memory,)
    ).fetchone()
    if row is None:
        raise MemoryNotFound("the memory was deleted while it was rebuilt")
    cursor.execute(
        "UPDATE memories SET model = ?, model_digest = ?, page_patterns = ?, version = ?, patterns = ? WHERE id = ?",
        (*row, draft),
    )
    cursor.execute(
        "UPDATE pages SET memory = CASE WHEN memory = ? THEN ? ELSE ? END WHERE memory IN (?, ?) AND number < ?",
        (memory, draft, memory, memory, draft, LOOSE_PAGES),
    )


def give(cursor: Cursor, memory: int, draft: int, *, dropped: Sequence[int]) -> None:
    """Give the memory the draft's pages; the draft gets those of these numbers, and those that are dropped."""
    cursor.execute(
        "UPDATE pages SET patterns = other.patterns, content = other.content, shared = other.shared "
        "FROM pages AS other WHERE other.number = pages.number "
        "AND ((pages.memory = ? AND other.memory = ?) OR (pages.memory = ? AND other.memory = ?))",
        (memory, draft, draft, memory),
    )
    cursor.execute(
        "UPDATE pages SET memory = ? "
        "WHERE memory = ? AND number NOT IN (SELECT number FROM pages AS own WHERE own.memory = ?)",
        (memory, draft, memory),
    )
    cursor.executemany(
        "UPDATE pages SET memory = ? WHERE memory = ? AND number = ?", [(draft, memory, number) for number in dropped]
    )


def leftovers(cursor: Cursor, *, now_s: float) -> Sequence[int]:
    """Return the numbers of drafts that nobody will finish, or that are too old; not too many at a time."""
    rows = cursor.execute(
        "SELECT id FROM memories WHERE name >= ? AND name < ? AND parent = id "
        "AND (created_s < ? OR (name >= ? AND name < ?)) LIMIT ?",
        (*_DRAFTS, now_s - ABANDONED_AFTER_S, *_GONE, LEFTOVERS),
    ).fetchall()
    return [int(identity) for (identity,) in rows]
