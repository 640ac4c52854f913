"""Rows of numbered calls, each with what it has done: noted in its transaction, so that a repeat does nothing.

A number is noted with the kind of the call, the memory that it names and a digest of all that it asks, so that another
call with the same number is refused, and not taken for a repeat.
"""

from attractor_server.errors import NumberReused, SequenceForgotten
from attractor_server.memories.ledger import REMEMBERED_ANSWERS
from attractor_server.memories.records import Call, Done
from attractor_server.storage.database import Cursor

REMEMBERED_S = 86_400.0
"""A repeat comes sooner: clients give up after minutes"""


def find(cursor: Cursor, call: Call | None) -> Done | None:
    """Return what that call has done, or None if it is new or has no number.

    Raises:
        NumberReused: another call had that number.
        SequenceForgotten: the number is older than those that are remembered of its client.
    """
    if call is None:
        return None
    rows = cursor.execute(
        "SELECT kind, memory, digest, version, patterns FROM calls WHERE client = ? AND sequence = ?",
        (call.client, call.sequence),
    ).fetchall()
    for kind, memory, digest, version, patterns in rows:
        if kind in ("", call.kind) and memory in ("", call.memory) and digest in (0, call.digest):
            return Done(version, patterns)
    for kind, memory, *_ in rows:
        first = "with other arguments" if (kind, memory) == (call.kind, call.memory) else f"{kind} of {memory!r}"
        raise NumberReused(
            f"call.sequence: {call.sequence} was given to a call before, {first}, and comes again with {call.kind} of "
            f"{call.memory!r}; expected a number of its own for each call of a client, or another client_id"
        )
    (last,) = cursor.execute("SELECT max(sequence) FROM calls WHERE client = ?", (call.client,)).fetchall()[0]
    if last is not None and call.sequence <= last - REMEMBERED_ANSWERS:
        raise SequenceForgotten(
            f"call.sequence: {call.sequence} is older than the last {REMEMBERED_ANSWERS} calls of this client, whether "
            f"it was carried out is no longer known; expected more than {last - REMEMBERED_ANSWERS}"
        )
    return None


def note(cursor: Cursor, call: Call | None, done: Done, *, now_s: float) -> None:
    """Remember what the call has done, and forget what is older than is remembered."""
    if call is None:
        return
    cursor.execute(
        "INSERT INTO calls (client, sequence, kind, memory, digest, version, patterns, made_s) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (call.client, call.sequence, call.kind, call.memory, call.digest, done.version, done.patterns, now_s),
    )
    cursor.execute(
        "DELETE FROM calls WHERE client = ? AND sequence <= ?", (call.client, call.sequence - REMEMBERED_ANSWERS)
    )
    cursor.execute("DELETE FROM calls WHERE made_s < ?", (now_s - REMEMBERED_S,))
