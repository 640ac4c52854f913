"""Which memories a shard holds. In process memory: a restart of the shard forgets them."""

import bisect
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from attractor_server.errors import Conflict, MemoryNotFound, OtherSettings, SequenceForgotten
from attractor_server.storage.settings import MemorySettings

Answer = TypeVar("Answer")
PageType = TypeVar("PageType")

REMEMBERED_ANSWERS = 1024
"""Stores and erases a memory remembers of each client, to recognise a repeat."""
REMEMBERED_CLIENTS = 64
"""Clients a memory remembers; the one silent for longest goes first."""
_ENTRY = 4
"""Numbers that a ledger keeps of each answer"""


class Applied(NamedTuple):
    """The answer to a store or an erase that was applied."""

    version: int
    patterns: int
    erases: bool


@dataclass(slots=True)
class Ledger(Generic[Answer]):
    """The stores and erases one client sent to one memory: a repeated sequence number gets the first answer."""

    last: int = 0
    _under_way: dict[int, Answer] | None = None
    """Answers that are not known yet; None for none, which takes less memory"""
    _applied: "array[int]" = field(default_factory=lambda: array("q"))
    """Sequence, version, patterns and whether it erased, of one after another, as they were answered"""
    _forgotten: int = 0

    def find(self, sequence: int) -> Answer | Applied | None:
        """The first answer to that number, or None if it is new.

        Raises:
            SequenceForgotten: the number is older than what is remembered.
        """
        if sequence <= self._forgotten:
            raise SequenceForgotten(
                f"sequence: {sequence} is older than the last {REMEMBERED_ANSWERS} stores of this client, "
                f"whether it was applied is no longer known; expected more than {self._forgotten}"
            )
        if sequence > self.last:
            return None
        if self._under_way is not None and sequence in self._under_way:
            return self._under_way[sequence]
        sequences = self._applied[::_ENTRY]
        if sequence not in sequences:
            return None
        at = _ENTRY * sequences.index(sequence)
        _, version, patterns, erases = self._applied[at : at + _ENTRY]
        return Applied(version, patterns, bool(erases))

    def enter(self, sequence: int, answer: Answer) -> None:
        """Remembers an answer that is on its way."""
        if self._under_way is None:
            self._under_way = {}
        self._under_way[sequence] = answer
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


@dataclass(eq=False, slots=True)
class MemoryRecord(Generic[Answer, PageType]):
    """One memory of this shard. The engine alone changes `pages`, `patterns` and `version`."""

    name: str
    model: str
    model_digest: str
    created_s: float
    settings: MemorySettings
    pages: list[PageType] = field(default_factory=list)
    """The last one is being filled, those before it are sealed; none until the first store."""
    patterns: int = 0
    version: int = 0
    deleted: bool = False
    id: int = 0
    """In the backend store; 0 for a memory that no store has"""
    expires_s: float | None = None
    """When it is forgotten unless it is written before"""
    at_hand: bool = True
    """Whether the engine has its pages; if not, it makes them as the store has them before anything else"""
    _ledgers: dict[str, Ledger[Answer]] | None = None
    """By client, the one silent for longest first; None for none, which takes less memory"""

    def touch(self) -> None:
        """It was written: its time begins anew."""
        if self.settings.ttl_s is not None:
            self.expires_s = time.time() + self.settings.ttl_s

    def last_sequence(self, client_id: str) -> int:
        """Highest number of that client's stores and erases; 0 if none is remembered."""
        ledger = (self._ledgers or {}).get(client_id)
        return 0 if ledger is None else ledger.last

    def ledger(self, client_id: str) -> Ledger[Answer]:
        """The stores and erases of that client."""
        if self._ledgers is None:
            self._ledgers = {}
        ledger = self._ledgers.pop(client_id) if client_id in self._ledgers else Ledger()
        self._ledgers[client_id] = ledger
        if len(self._ledgers) > REMEMBERED_CLIENTS:
            del self._ledgers[next(iter(self._ledgers))]
        return ledger


class Catalog(Generic[Answer, PageType]):
    """Memories by name, listed in the order of names."""

    def __init__(self) -> None:
        self._records: dict[str, MemoryRecord[Answer, PageType]] = {}
        self._names: list[str] = []
        self._mortal: dict[str, MemoryRecord[Answer, PageType]] = {}
        """Those that will expire"""
        self._settings: dict[MemorySettings, MemorySettings] = {}
        """One of each, which all memories share that have it"""

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def find(self, name: str) -> MemoryRecord[Answer, PageType] | None:
        """The memory of that name, or None."""
        return self._records.get(name)

    def adopt(self, record: MemoryRecord[Answer, PageType]) -> None:
        """Takes in a memory that was made elsewhere, under a name that is free."""
        assert record.name not in self._records
        self._records[record.name] = record
        if record.settings.ttl_s is not None:
            self._mortal[record.name] = record
        bisect.insort(self._names, record.name)

    def create(
        self, name: str, *, model: str, model_digest: str, settings: MemorySettings
    ) -> MemoryRecord[Answer, PageType]:
        """The memory of that name, model and settings, made now if there is none.

        Raises:
            Conflict: the name is taken by a memory of another model, or with other settings.
        """
        if (record := self._records.get(name)) is None:
            settings = self._settings.setdefault(settings, settings)
            made: MemoryRecord[Answer, PageType] = MemoryRecord(
                name, sys.intern(model), model_digest, time.time(), settings
            )
            made.touch()
            self.adopt(made)
            return made
        if record.model_digest != model_digest:
            raise Conflict(
                f"memory {name!r} exists and was made from model {record.model} ({record.model_digest}); "
                f"asked for {model} ({model_digest}): delete it first, or choose another name"
            )
        if difference := record.settings.difference(settings):
            raise OtherSettings(
                f"memory {name!r} exists and its {difference}: ask for what it has, delete it first, "
                "or choose another name"
            )
        return record

    def get(self, name: str) -> MemoryRecord[Answer, PageType]:
        """The memory of that name.

        Raises:
            MemoryNotFound: there is none.
        """
        if (record := self._records.get(name)) is None:
            raise MemoryNotFound(f"no memory {name!r}; create it first (a restarted shard starts empty)")
        return record

    def remove(self, name: str) -> MemoryRecord[Answer, PageType]:
        """Takes the memory out of the catalog and marks it deleted.

        Raises:
            MemoryNotFound: there is none.
        """
        record = self.get(name)
        record.deleted = True
        del self._records[name]
        self._mortal.pop(name, None)
        self._names.pop(bisect.bisect_left(self._names, name))
        return record

    def expired(self, *, now_s: float, size: int) -> Sequence[str]:
        """Names of up to `size` memories whose time is over."""
        over = (name for name, record in self._mortal.items() if (record.expires_s or now_s) < now_s)
        return list(islice(over, size))

    def page(self, *, prefix: str, after: str, size: int) -> Sequence[MemoryRecord[Answer, PageType]]:
        """Up to `size` memories with that prefix and names beyond `after`, in the order of names."""
        start = max(bisect.bisect_left(self._names, prefix), bisect.bisect_right(self._names, after))
        names = self._names[start : start + size]
        return [self._records[name] for name in names if name.startswith(prefix)]
