"""Forks and snapshots: rows of their own over pages that they share. A snapshot is a memory that nobody reaches."""

from collections.abc import Sequence

from attractor_server.errors import NameTaken, SnapshotNotFound, TagTaken
from attractor_server.storage import contents, rows
from attractor_server.storage.records import Done, Snapshot, StoredMemory
from attractor_server.storage.sql import Cursor

HIDDEN = "."
"""Begins the tags of snapshots that are taken to be read once; whoever took one may have died before forgetting it"""
HIDDEN_FOR_S = 3600.0

_COPY = (
    "INSERT INTO memories (name, model, model_digest, write, when_full, page_patterns, retain, ttl_s, created_s, "
    "expires_s, version, patterns, parent, origin, origin_version) "
    "SELECT ?, model, model_digest, write, when_full, page_patterns, retain, ttl_s, ?, {expires}, version, patterns, "
    "{parent}, id, version FROM memories WHERE id = ? ON CONFLICT (name) DO NOTHING RETURNING id"
)
_FORK = _COPY.format(expires="? + ttl_s", parent="NULL")
_SNAPSHOT = _COPY.format(expires="NULL", parent="id")


def fork(cursor: Cursor, memory: int, name: str, *, tag: str, now_s: float) -> StoredMemory:
    """A memory with what the first one has, or had; nothing of what its clients were told goes with it."""
    source = snapshot_id(cursor, memory, tag) if tag else memory
    made = cursor.execute(_FORK, (name, now_s, now_s, source)).fetchone()
    if made is None:
        _check_same(cursor, source, name)
    else:
        contents.shared(cursor, source, made[0])
    found = rows.found(cursor, name)
    assert found is not None
    return found


def snapshot(cursor: Cursor, memory: int, tag: str, *, now_s: float) -> Snapshot:
    """The memory as it is, under a name that nobody can ask for."""
    if tag.startswith(HIDDEN):
        _forget_hidden(cursor, memory, before_s=now_s - HIDDEN_FOR_S)
    name, version = cursor.execute("SELECT name, version FROM memories WHERE id = ?", (memory,)).fetchone()
    made = cursor.execute(_SNAPSHOT, (f"{name}@{tag}", now_s, memory)).fetchone()
    if made is not None:
        contents.shared(cursor, memory, made[0])
    found = next(one for one in snapshots(cursor, memory) if one.tag == tag)
    if found.version != version:
        raise TagTaken(
            f"tag: saw {tag!r}, which memory {name!r} has for its version {found.version}, and it is at {version} now; "
            "expected another tag, or forget that snapshot first"
        )
    return found


def snapshots(cursor: Cursor, memory: int) -> Sequence[Snapshot]:
    """Of a memory, the oldest first."""
    found = cursor.execute(
        "SELECT id, name, model, model_digest, version, patterns, created_s FROM memories WHERE parent = ? ORDER BY id",
        (memory,),
    ).fetchall()
    return [
        Snapshot(
            id=identity,
            tag=name.rpartition("@")[2],
            model=model,
            model_digest=digest,
            version=version,
            patterns=patterns,
            created_s=created_s,
        )
        for identity, name, model, digest, version, patterns, created_s in found
    ]


def kept(cursor: Cursor, name: str, tag: str) -> StoredMemory:
    """A snapshot with its pages.

    Raises:
        SnapshotNotFound: there is none.
    """
    row = cursor.execute("SELECT id FROM memories WHERE name = ? AND parent <> id", (f"{name}@{tag}",)).fetchone()
    if row is None:
        raise SnapshotNotFound(f"memory {name!r} has no snapshot {tag!r}")
    return rows.by_id(cursor, row[0])


def snapshot_id(cursor: Cursor, memory: int, tag: str) -> int:
    """The row of a snapshot.

    Raises:
        SnapshotNotFound: there is none.
    """
    row = cursor.execute(
        "SELECT id FROM memories WHERE parent = ? AND name = (SELECT name FROM memories WHERE id = ?) || ?",
        (memory, memory, f"@{tag}"),
    ).fetchone()
    if row is None:
        tags = [one.tag for one in snapshots(cursor, memory)]
        raise SnapshotNotFound(f"tag: saw {tag!r}; expected one of this memory's snapshots {tags}")
    return int(row[0])


def restore(cursor: Cursor, memory: int, tag: str, *, now_s: float) -> Done:
    """Gives the memory the pages of a snapshot, and its model; the version goes on."""
    source = snapshot_id(cursor, memory, tag)
    contents.all_dropped(cursor, memory)
    contents.shared(cursor, source, memory)
    model, digest, page_patterns, patterns = cursor.execute(
        "SELECT model, model_digest, page_patterns, patterns FROM memories WHERE id = ?", (source,)
    ).fetchone()
    row = cursor.execute(
        "UPDATE memories SET version = version + 1, patterns = ?, model = ?, model_digest = ?, page_patterns = ?, "
        "expires_s = ? + ttl_s WHERE id = ? RETURNING version",
        (patterns, model, digest, page_patterns, now_s, memory),
    ).fetchone()
    return Done(row[0], patterns)


def delete(cursor: Cursor, memory: int) -> None:
    """Takes away a memory, its snapshots, and what is in the pages that only they had."""
    own = cursor.execute("SELECT id FROM memories WHERE parent = ?", (memory,)).fetchall()
    for identity in [*(identity for (identity,) in own), memory]:
        contents.all_dropped(cursor, identity)
    cursor.execute("DELETE FROM memories WHERE id = ?", (memory,))


def _forget_hidden(cursor: Cursor, memory: int, *, before_s: float) -> None:
    for one in snapshots(cursor, memory):
        if one.tag.startswith(HIDDEN) and one.created_s < before_s:
            delete(cursor, one.id)


def _check_same(cursor: Cursor, source: int, name: str) -> None:
    """That the memory of that name is the fork that was asked for, as it was made."""
    there = cursor.execute("SELECT origin, origin_version, version FROM memories WHERE name = ?", (name,)).fetchone()
    version = cursor.execute("SELECT version FROM memories WHERE id = ?", (source,)).fetchone()[0]
    if tuple(there) != (source, version, version):
        raise NameTaken(f"memory {name!r} exists, and is another one; choose another name, or delete it first")
