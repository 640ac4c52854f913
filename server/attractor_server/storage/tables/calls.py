"""Rows of numbered writes and calls, each noted in its own transaction, so that a repeat does nothing.

The rules by which a repeat is told from another request are those of `memories/ledger.py`. Stores and erases are noted
with their acknowledgements, for each client of a memory, and calls with what they have done, for each client.

A call's number is noted with the kind of the call, the memory that it names and a digest of all that it asks, so that
another call with the same number is refused, and not taken for a repeat.
"""

from collections.abc import Sequence

from attractor_server.errors import NumberReused, SequenceForgotten
from attractor_server.memories.ledger import REMEMBERED_ANSWERS
from attractor_server.memories.memory import REMEMBERED_CLIENTS
from attractor_server.memories.records import Call, Change, Done, WriteAck
from attractor_server.storage.database import Cursor, several

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
        "SELECT kind, memory, digest, version, patterns FROM calls WHERE client IN (?, ?) AND sequence = ?",
        (call.client, call.former or call.client, call.sequence),
    ).fetchall()
    for kind, memory, digest, version, patterns in rows:
        if kind in ("", call.kind) and memory in ("", call.memory) and digest in (0, call.digest):
            return Done(version, patterns)
    if any((kind, digest) == (call.kind, call.digest) and digest for kind, _, digest, *_ in rows):
        return None  # it is about several memories, each of which is noted
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


_CLIENTS = (
    "SELECT client, max(sequence), max(version) AS newest FROM answers WHERE memory = ? GROUP BY client "
    "ORDER BY newest DESC"
)

_ACKS = (
    "SELECT client, sequence, version, patterns, erases, digest FROM answers WHERE memory = ? "
    "AND client IN (VALUES {}) ORDER BY version"
)


def load_clients(cursor: Cursor, memory: int) -> tuple[Sequence[WriteAck], Sequence[tuple[str, int]]]:
    """Return the acks of the clients that wrote last, and the highest number of each other one, the oldest first."""
    clients = cursor.execute(_CLIENTS, (memory,)).fetchall()
    former = [(client, last) for client, last, _ in reversed(clients[REMEMBERED_CLIENTS:])]
    return load_acks(cursor, memory, [client for client, *_ in clients[:REMEMBERED_CLIENTS]]), former


def load_acks(cursor: Cursor, memory: int, clients: Sequence[str]) -> Sequence[WriteAck]:
    """Return the acks of those clients that are remembered, in the order of versions."""
    if not clients:
        return []
    marks, values = several([(client,) for client in clients])
    rows = cursor.execute(_ACKS.format(marks), (memory, *values)).fetchall()
    return [
        WriteAck(
            client=client, sequence=sequence, version=version, patterns=patterns, erases=bool(erases), digest=digest
        )
        for client, sequence, version, patterns, erases, digest in rows
    ]


def save_acks(cursor: Cursor, changes: Sequence[Change]) -> None:
    """Note the write acks of the changes, and forget what is older than is remembered."""
    cursor.executemany(
        "DELETE FROM answers WHERE memory = ? AND client = ?",
        [(change.memory, client) for change in changes for client in change.departed],
    )
    acks = [(change.memory, ack) for change in changes for ack in change.told]
    cursor.executemany(
        "INSERT INTO answers (memory, client, sequence, version, patterns, erases, digest) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (memory, one.client, one.sequence, one.version, one.patterns, int(one.erases), one.digest)
            for memory, one in acks
        ],
    )
    cursor.executemany(
        "DELETE FROM answers WHERE memory = ? AND client = ? AND sequence <= ?",
        [
            (memory, one.client, one.sequence - REMEMBERED_ANSWERS)
            for memory, one in acks
            if one.sequence > REMEMBERED_ANSWERS
        ],
    )
