"""Idempotency: each numbered store or erase of a client is applied once, and a repeat gets the first answer.

A shard has a ledger for each client of a memory at hand; the store has the acknowledgements of what was applied. Both
know a number together with a digest of what it writes, so that another request under that number is refused. Calls that
are no stores or erases are remembered by the store alone, see `storage/tables/calls.py`.
"""

import asyncio
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from attractor_server.errors import NumberReused, SequenceForgotten
from attractor_server.memories.outcomes import Erased, Floats, OutcomeFuture, Stored, outcome_of
from attractor_server.memories.records import Item, WriteAck

REMEMBERED_ANSWERS = 1024
"""Stores and erases a memory remembers of each client, to recognise a repeat."""

_ENTRY = 5
"""Numbers that a ledger keeps of each answer"""


class Applied(NamedTuple):
    """The answer to a store or an erase that was applied."""

    version: int
    patterns: int
    erases: bool
    digest: int = 0
    """Of what was written; 0: not noted"""

    def future(self) -> OutcomeFuture:
        """Return the answer as one that has come."""
        answer: OutcomeFuture = asyncio.get_running_loop().create_future()
        answer.set_result((Erased if self.erases else Stored)(self.version, self.patterns))
        return answer


@dataclass(slots=True)
class Ledger:
    """The stores and erases one client sent to one memory: a repeated sequence number gets the first answer."""

    last: int = 0
    elsewhere: int = 0
    """Of the numbers up to this one only the store knows which were applied"""
    _under_way: dict[int, tuple[OutcomeFuture, int]] | None = None
    """Answers that are not known yet, and digests of what is written; None for none, which takes less memory"""
    _applied: "array[int]" = field(default_factory=lambda: array("q"))
    """Sequence, version, patterns, whether it erased, and digest, of one after another, as they were answered"""
    _forgotten: int = 0

    def find(self, sequence: int, digest: int = 0) -> OutcomeFuture | Applied | None:
        """Return the first answer to that number, or None if none is at hand.

        Args:
            sequence: The number.
            digest: Of what the request writes; 0 for any.

        Raises:
            SequenceForgotten: the number is older than what is remembered.
            NumberReused: another request had that number.
        """
        if sequence <= self._forgotten:
            raise SequenceForgotten(
                f"sequence: {sequence} is older than the last {REMEMBERED_ANSWERS} stores of this client, "
                f"whether it was applied is no longer known; expected more than {self._forgotten}"
            )
        if sequence > self.last:
            return None
        if self._under_way is not None and sequence in self._under_way:
            answer, first = self._under_way[sequence]
            if first and digest and first != digest:
                raise reuse_error(sequence)
            return answer
        sequences = self._applied[::_ENTRY]
        if sequence not in sequences:
            return None
        at = _ENTRY * sequences.index(sequence)
        _, version, patterns, erases, first = self._applied[at : at + _ENTRY]
        if first and digest and first != digest:
            raise reuse_error(sequence)
        return Applied(version, patterns, bool(erases), first)

    def enter(self, sequence: int, answer: OutcomeFuture, digest: int = 0) -> None:
        """Remember an answer that is on its way."""
        if self._under_way is None:
            self._under_way = {}
        self._under_way[sequence] = answer, digest
        self.last = max(self.last, sequence)

    def settle(self, sequence: int, applied: Applied) -> None:
        """Remember the answer that has come."""
        self.strike(sequence)
        self.last = max(self.last, sequence)
        self._applied.extend((sequence, *applied))
        if len(self._applied) > _ENTRY * REMEMBERED_ANSWERS:
            self._forgotten = max(self._forgotten, self._applied[0])
            del self._applied[:_ENTRY]

    def forget(self, sequence: int) -> None:
        """Forget of all numbers up to this one whether they were applied."""
        self._forgotten = max(self._forgotten, sequence)

    def strike(self, sequence: int) -> None:
        """Take back a number whose store or erase was not applied, so that a repeat is tried afresh."""
        if self._under_way is not None:
            self._under_way.pop(sequence, None)
            self._under_way = self._under_way or None


class StoredAcks:
    """Acknowledgements that the store has, by client and number."""

    def __init__(self, acks: Iterable[WriteAck]) -> None:
        self._acks = {(ack.client, ack.sequence): ack for ack in acks}

    def find(self, client: str, sequence: int, digest: int) -> Stored | Erased | None:
        """Return the first answer to that number of a client, or None if the store has none.

        Raises:
            NumberReused: another request had that number.
        """
        if (ack := self._acks.get((client, sequence))) is None:
            return None
        if ack.digest and digest and ack.digest != digest:
            raise reuse_error(sequence)
        return (Erased if ack.erases else Stored)(ack.version, ack.patterns)


def look_back(acks: Sequence[WriteAck], client: str, sequence: int, digest: int) -> Stored | Erased | None:
    """Return the first answer to a number of which only the store knows, or None if it is new.

    Args:
        acks: All that the store remembers of that client.
        client: Whose number it is.
        sequence: The number.
        digest: Of what the request writes.

    Raises:
        SequenceForgotten: the number is older than what the store remembers.
        NumberReused: another request had that number.
    """
    oldest = min((ack.sequence for ack in acks), default=0)
    if len(acks) >= REMEMBERED_ANSWERS and sequence < oldest:
        raise SequenceForgotten(
            f"sequence: {sequence} is older than the last {REMEMBERED_ANSWERS} stores of this client, whether "
            f"it was applied is no longer known; expected more than {oldest - 1}"
        )
    return StoredAcks(acks).find(client, sequence, digest)


def apply_once(
    ledger: Ledger, sequence: int, digest: int, answer: OutcomeFuture, *, in_store: bool
) -> OutcomeFuture | None:
    """Return the first answer to that number, or None after entering `answer` as the one that is on its way.

    An answer that is an error is struck from the ledger, so that a repeat is tried afresh.

    Args:
        ledger: Of the client and the memory.
        sequence: The number.
        digest: Of what the request writes.
        answer: What will hold its outcome.
        in_store: Whether a store has the memory, which remembers more numbers than are at hand.

    Raises:
        SequenceForgotten: the number is too old to tell.
        NumberReused: another request had that number.
    """
    if (first := ledger.find(sequence, digest)) is not None:
        return first.future() if isinstance(first, Applied) else first
    if sequence <= ledger.elsewhere and not in_store:
        raise SequenceForgotten(
            f"sequence: {sequence} may have been applied before, which is no longer known of a client that was "
            f"silent while many others wrote; expected more than {ledger.elsewhere}"
        )
    ledger.enter(sequence, answer, digest)
    answer.add_done_callback(partial(_close, ledger, sequence, digest))
    return None


def _close(ledger: Ledger, sequence: int, digest: int, answer: OutcomeFuture) -> None:
    if isinstance(outcome := outcome_of(answer), Stored | Erased):
        erases = isinstance(outcome, Erased)
        ledger.settle(sequence, Applied(outcome.version, outcome.patterns, erases, digest))
    else:
        ledger.strike(sequence)


def digest_write(operation: str, values: Floats | None, items: Sequence[Item]) -> int:
    """Return a number, not 0, that repeats of a store or an erase have and other requests hardly ever."""
    digest = zlib.crc32(operation.encode())
    if values is not None:
        digest = zlib.crc32(values.data, digest)
    for item in items:
        digest = zlib.crc32(b"%d %d " % (-1 if item.empty else len(item.payload), item.json), digest)
        digest = zlib.crc32(item.payload, zlib.crc32(item.id.encode(), digest))
        if item.ttl_s:
            digest = zlib.crc32(b"%r" % item.ttl_s, digest)
    return digest or 1


def digest_call(request: bytes) -> int:
    """Return a number, not 0, that repeats of another numbered call have and other requests hardly ever."""
    return zlib.crc32(request) or 1


def reuse_error(sequence: int) -> NumberReused:
    """Return the refusal of a store or an erase that has the number of another one of its client and memory."""
    return NumberReused(
        f"sequence: {sequence} was given before to a store or an erase that writes something else; expected a number "
        "of its own for each of a client to a memory, or another client_id"
    )
