"""Forks and snapshots: rows of their own over pages that they share. A snapshot is a memory that nobody reaches."""

import uuid
from collections.abc import Sequence

from attractor_server.errors import NameTaken, SnapshotNotFound, TagTaken
from attractor_server.memories.names import HIDDEN
from attractor_server.memories.records import Done, Snapshot, StoredMemory
from attractor_server.storage.database import Cursor, number
from attractor_server.storage.tables import contents as content_rows
from attractor_server.storage.tables import memories as memory_rows
from attractor_server.storage.tables import pages as page_rows

HIDDEN_FOR_S = 3600.0

TAGS_TOLD = 8
"""By an error that says which there are"""

LEFTOVERS = 64

_COPY = (
    "INSERT INTO memories (name, model, model_digest, write, when_full, page_patterns, retain, metric, recall, ttl_s, "
    "created_s, expires_s, version, patterns, parent, origin, origin_version, family) "
    "SELECT ?, model, model_digest, write, when_full, page_patterns, retain, metric, recall, ttl_s, ?, {expires}, "
    "version, patterns, {parent}, id, version, coalesce(family, id) "
    "FROM memories WHERE id = ? ON CONFLICT (name) DO NOTHING RETURNING id"
)

_SELECT = "SELECT id, name, model, model_digest, version, patterns, created_s FROM memories"

_FORK = _COPY.format(expires="? + ttl_s", parent="NULL")

_SNAPSHOT = _COPY.format(expires="NULL", parent="id")


def fork(cursor: Cursor, memory: int, name: str, *, tag: str, now_s: float) -> StoredMemory:
    """Make a memory with what the first one has, or had at a snapshot; write acks do not go with it."""
    source = snapshot_id(cursor, memory, tag) if tag else memory
    made = cursor.execute(_FORK, (name, now_s, now_s, source)).fetchone()
    if made is None:
        _check_fork(cursor, source, name)
    else:
        page_rows.share(cursor, source, made[0])
    found = memory_rows.find(cursor, name)
    assert found is not None
    return found


def snapshot(cursor: Cursor, memory: int, tag: str, *, now_s: float) -> Snapshot:
    """Keep the memory as it is, under a name that nobody can ask for."""
    name, version = cursor.execute("SELECT name, version FROM memories WHERE id = ?", (memory,)).fetchone()
    made = cursor.execute(_SNAPSHOT, (f"{name}@{tag}", now_s, memory)).fetchone()
    if made is not None:
        page_rows.share(cursor, memory, made[0])
    found = find(cursor, memory, tag)
    assert found is not None
    if found.version != version:
        raise TagTaken(
            f"tag: saw {tag!r}, which memory {name!r} has for its version {found.version}, and it is at {version} now; "
            "expected another tag, or forget that snapshot first"
        )
    return found


def list_all(cursor: Cursor, memory: int, *, after: int, size: int) -> Sequence[Snapshot]:
    """Return up to so many snapshots of a memory with numbers beyond `after`, the oldest first; no hidden ones."""
    rows = cursor.execute(
        f"{_SELECT} WHERE parent = ? AND id > ? AND NOT (name >= ? AND name < ?) ORDER BY id LIMIT ?",
        (memory, after, *_hidden_names(cursor, memory), size),
    ).fetchall()
    return list(map(_snapshot, rows))


def find(cursor: Cursor, memory: int, tag: str) -> Snapshot | None:
    """Return the snapshot with that tag, if there is one."""
    row = cursor.execute(
        f"{_SELECT} WHERE parent = ? AND name = ?", (memory, f"{_name(cursor, memory)}@{tag}")
    ).fetchone()
    return None if row is None else _snapshot(row)


def load(cursor: Cursor, name: str, tag: str) -> StoredMemory:
    """Load a snapshot as a memory, with its pages.

    Raises:
        SnapshotNotFound: there is none.
    """
    if (memory := find_id(cursor, name, tag)) is None:
        raise SnapshotNotFound(f"memory {name!r} has no snapshot {tag!r}")
    return memory_rows.load(cursor, memory)


def snapshot_id(cursor: Cursor, memory: int, tag: str) -> int:
    """Return the number of a snapshot.

    Raises:
        SnapshotNotFound: there is none.
    """
    if (found := find(cursor, memory, tag)) is None:
        raise SnapshotNotFound(f"tag: saw {tag!r}; expected {_describe_tags(cursor, memory)}")
    return found.id


def restore(cursor: Cursor, memory: int, tag: str, *, now_s: float, pages: int) -> tuple[Done, int]:
    """Give the memory the pages of a snapshot, and its model; the version goes on.

    Where its old pages are more than so many, they become another one's, whose number comes with the result; else 0.
    """
    source, old = snapshot_id(cursor, memory, tag), 0
    if page_rows.are_more_than(cursor, memory, pages):
        (old,) = cursor.execute(_SNAPSHOT, (f"@{uuid.uuid4().hex}", now_s, memory)).fetchone()
        page_rows.move(cursor, memory, old)
    else:
        page_rows.drop_all(cursor, memory)
    page_rows.share(cursor, source, memory)
    model, digest, page_patterns, metric, patterns = cursor.execute(
        "SELECT model, model_digest, page_patterns, metric, patterns FROM memories WHERE id = ?", (source,)
    ).fetchone()
    row = cursor.execute(
        "UPDATE memories SET version = version + 1, patterns = ?, model = ?, model_digest = ?, page_patterns = ?, "
        "metric = ?, expires_s = ? + ttl_s WHERE id = ? RETURNING version",
        (patterns, model, digest, page_patterns, metric, now_s, memory),
    ).fetchone()
    return Done(row[0], patterns), old


def delete(cursor: Cursor, memory: int) -> None:
    """Delete a memory, its snapshots, and the contents of pages that only they had."""
    found = page_rows.contents_of(cursor, memory)
    cursor.execute("DELETE FROM memories WHERE id = ?", (memory,))  # and with it its snapshots and all their pages
    content_rows.forget_all(cursor, found)


def is_large(cursor: Cursor, memory: int, *, parts: int, pages: int) -> bool:
    """Return whether a memory has more pages, or more pages and snapshots, than that."""
    if page_rows.are_more_than(cursor, memory, pages):
        return True
    held = cursor.execute("SELECT number FROM pages WHERE memory = ? LIMIT ?", (memory, pages)).fetchall()
    own = cursor.execute("SELECT id FROM memories WHERE parent = ? LIMIT ?", (memory, parts + 1)).fetchall()
    return len(held) + len(own) > parts


def shorten(cursor: Cursor, memory: int, pages: int) -> bool:
    """Take up to so many pages from a memory, those of its snapshots first; return whether it may have more."""
    while pages > 0:
        row = cursor.execute(
            "SELECT id FROM memories WHERE parent = ? AND id <> ? LIMIT 1", (memory, memory)
        ).fetchone()
        if row is None:
            return page_rows.shorten(cursor, memory, pages)
        if page_rows.shorten(cursor, row[0], pages):
            return True
        cursor.execute("DELETE FROM memories WHERE id = ?", row)
        pages -= 1
    return True


def find_id(cursor: Cursor, name: str, tag: str) -> int | None:
    """Return the number of the snapshot with that tag, if there is one."""
    row = cursor.execute("SELECT id FROM memories WHERE name = ? AND parent <> id", (f"{name}@{tag}",)).fetchone()
    return None if row is None else int(row[0])


def leftovers(cursor: Cursor, *, before_s: float) -> Sequence[int]:
    """Return the numbers of hidden snapshots, of all memories, that were taken before then; not too many at a time."""
    rows = cursor.execute(
        "SELECT id FROM memories WHERE parent IS NOT NULL AND parent <> id AND created_s < ? AND name LIKE ? LIMIT ?",
        (before_s, f"%@{HIDDEN}%", LEFTOVERS),
    ).fetchall()
    return [int(identity) for (identity,) in rows]


def _describe_tags(cursor: Cursor, memory: int) -> str:
    """Name the first tags of a memory, and how many more there are."""
    few = [one.tag for one in list_all(cursor, memory, after=0, size=TAGS_TOLD)]
    if len(few) < TAGS_TOLD:
        return f"one of this memory's snapshots {few}"
    count = number(
        cursor.execute(
            "SELECT count(*) FROM memories WHERE parent = ? AND NOT (name >= ? AND name < ?)",
            (memory, *_hidden_names(cursor, memory)),
        )
    )
    more = f" and {count - len(few)} more" if count > len(few) else ""
    return f"one of this memory's snapshots {few}{more}"


def _hidden_names(cursor: Cursor, memory: int) -> tuple[str, str]:
    """Return the start of the names of a memory's hidden snapshots, and the end of their range."""
    start = f"{_name(cursor, memory)}@"
    return f"{start}{HIDDEN}", f"{start}{chr(ord(HIDDEN) + 1)}"


def _name(cursor: Cursor, memory: int) -> str:
    row = cursor.execute("SELECT name FROM memories WHERE id = ?", (memory,)).fetchone()
    return "" if row is None else str(row[0])


def _snapshot(row: tuple[int, str, str, str, int, int, float]) -> Snapshot:
    identity, name, model, digest, version, patterns, created_s = row
    return Snapshot(
        id=identity,
        tag=name.rpartition("@")[2],
        model=model,
        model_digest=digest,
        version=version,
        patterns=patterns,
        created_s=created_s,
    )


def _check_fork(cursor: Cursor, source: int, name: str) -> None:
    """Raise NameTaken unless the memory of that name is the fork that was asked for, as it was made."""
    there = cursor.execute("SELECT origin, origin_version, version FROM memories WHERE name = ?", (name,)).fetchone()
    version = cursor.execute("SELECT version FROM memories WHERE id = ?", (source,)).fetchone()[0]
    if tuple(there) != (source, version, version):
        raise NameTaken(f"memory {name!r} exists, and is another one; choose another name, or delete it first")
