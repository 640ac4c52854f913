"""The ledger of a client's numbered writes to one memory."""

from array import array
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from attractor_server.errors import NumberReused, SequenceForgotten

AnswerType = TypeVar("AnswerType")

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


@dataclass(slots=True)
class Ledger(Generic[AnswerType]):
    """The stores and erases one client sent to one memory: a repeated sequence number gets the first answer."""

    last: int = 0
    elsewhere: int = 0
    """Of the numbers up to this one only the store knows which were applied"""
    _under_way: dict[int, tuple[AnswerType, int]] | None = None
    """Answers that are not known yet, and digests of what is written; None for none, which takes less memory"""
    _applied: "array[int]" = field(default_factory=lambda: array("q"))
    """Sequence, version, patterns, whether it erased, and digest, of one after another, as they were answered"""
    _forgotten: int = 0

    def find(self, sequence: int, digest: int = 0) -> AnswerType | Applied | None:
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
                raise number_reused(sequence)
            return answer
        sequences = self._applied[::_ENTRY]
        if sequence not in sequences:
            return None
        at = _ENTRY * sequences.index(sequence)
        _, version, patterns, erases, first = self._applied[at : at + _ENTRY]
        if first and digest and first != digest:
            raise number_reused(sequence)
        return Applied(version, patterns, bool(erases), first)

    def enter(self, sequence: int, answer: AnswerType, digest: int = 0) -> None:
        """Remembers an answer that is on its way."""
        if self._under_way is None:
            self._under_way = {}
        self._under_way[sequence] = answer, digest
        self.last = max(self.last, sequence)

    def settle(self, sequence: int, applied: Applied) -> None:
        """Remembers the answer that has come."""
        self.strike(sequence)
        self.last = max(self.last, sequence)
        self._applied.extend((sequence, *applied))
        if len(self._applied) > _ENTRY * REMEMBERED_ANSWERS:
            self._forgotten = max(self._forgotten, self._applied[0])
            del self._applied[:_ENTRY]

    def forget(self, sequence: int) -> None:
        """Knows of no number up to this one whether it was applied."""
        self._forgotten = max(self._forgotten, sequence)

    def strike(self, sequence: int) -> None:
        """Takes back a number whose store or erase was not applied, so that a repeat is tried afresh."""
        if self._under_way is not None:
            self._under_way.pop(sequence, None)
            self._under_way = self._under_way or None


def number_reused(sequence: int) -> NumberReused:
    """Return the refusal of a store or an erase that has the number of another one of its client and memory."""
    return NumberReused(
        f"sequence: {sequence} was given before to a store or an erase that writes something else; expected a number "
        "of its own for each of a client to a memory, or another client_id"
    )
