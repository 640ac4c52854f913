"""Numbered calls: what one has done is noted in the same transaction, so that a repeat is told of it and does nothing.

They stand among the answers to stores, and are counted apart from them: by numbers below zero.
"""

from attractor_server.storage.catalog import REMEMBERED_ANSWERS
from attractor_server.storage.records import Call, Done
from attractor_server.storage.sql import Cursor

_DELETED = "deleted {day:06} {client} {sequence}"
_DAY_S = 86_400


def found(cursor: Cursor, memory: int, call: Call | None) -> Done | None:
    """What that call to the memory has done; None if it is new, or has no number."""
    if call is None:
        return None
    row = cursor.execute(
        "SELECT version, patterns FROM answers WHERE memory = ? AND client = ? AND sequence = ?",
        (memory, call.client, -call.sequence),
    ).fetchone()
    return None if row is None else Done(*row)


def note(cursor: Cursor, memory: int, call: Call | None, done: Done) -> None:
    """Remembers it, and forgets what is older than is remembered."""
    if call is None:
        return
    row = (memory, call.client, -call.sequence, done.version, done.patterns)
    cursor.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, 0)", row)
    cursor.execute(
        "DELETE FROM answers WHERE memory = ? AND client = ? AND sequence < 0 AND sequence >= ?",
        (memory, call.client, REMEMBERED_ANSWERS - call.sequence),
    )


def deleted(cursor: Cursor, call: Call | None, *, now_s: float) -> bool:
    """Whether that call has deleted a memory, today or yesterday. The memory's own answers went with it."""
    if call is None:
        return False
    today = int(now_s) // _DAY_S
    names = [_DELETED.format(day=day, **call._asdict()) for day in (today, today - 1)]
    return cursor.execute("SELECT 1 FROM counters WHERE name IN (?, ?)", names).fetchone() is not None


def note_deleted(cursor: Cursor, call: Call | None, *, now_s: float) -> None:
    """Remembers that it has, and forgets what is older than a day or two."""
    if call is None:
        return
    today = int(now_s) // _DAY_S
    cursor.execute("INSERT INTO counters VALUES (?, 1)", (_DELETED.format(day=today, **call._asdict()),))
    cursor.execute("DELETE FROM counters WHERE name > 'deleted ' AND name < ?", (f"deleted {today - 1:06}",))
