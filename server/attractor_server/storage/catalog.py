"""Which memories a shard holds. In process memory: a restart of the shard forgets them."""

import bisect
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from attractor_server.errors import Conflict, MemoryNotFound, NumberReused, OtherSettings, SequenceForgotten
from attractor_server.storage.settings import MemorySettings

Answer = TypeVar("Answer")
PageType = TypeVar("PageType")

REMEMBERED_ANSWERS = 1024
"""Stores and erases a memory remembers of each client, to recognise a repeat."""
REMEMBERED_CLIENTS = 64
"""Clients whose answers a record has at hand; of the one silent for longest the store alone has them."""
KNOWN_CLIENTS = 1024
"""Clients whose highest numbers a record has at hand, and whose answers its store has"""
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
class Ledger(Generic[Answer]):
    """The stores and erases one client sent to one memory: a repeated sequence number gets the first answer."""

    last: int = 0
    elsewhere: int = 0
    """Of the numbers up to this one only the store knows which were applied"""
    _under_way: dict[int, tuple[Answer, int]] | None = None
    """Answers that are not known yet, and digests of what is written; None for none, which takes less memory"""
    _applied: "array[int]" = field(default_factory=lambda: array("q"))
    """Sequence, version, patterns, whether it erased, and digest, of one after another, as they were answered"""
    _forgotten: int = 0

    def find(self, sequence: int, digest: int = 0) -> Answer | Applied | None:
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

    def enter(self, sequence: int, answer: Answer, digest: int = 0) -> None:
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


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of a memory that change with each write."""

    version: int
    patterns: int
    expires_s: float | None


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
    moved: bool = False
    """Another shard has it, or will when what was accepted is finished; nothing new is taken"""
    id: int = 0
    """In the backend store; 0 for a memory that no store has"""
    expires_s: float | None = None
    """When it is forgotten unless it is written before"""
    at_hand: bool = True
    """Whether the engine has its pages; if not, it makes them as the store has them before anything else"""
    _ledgers: dict[str, Ledger[Answer]] | None = None
    """By client, the one silent for longest first; None for none, which takes less memory"""
    _former: dict[str, int] | None = None
    """Highest numbers of the clients before those, the one silent for longest first; None for none"""
    departed: list[str] | None = None
    """Clients before those, whose answers the store is to forget; None for none"""

    def touch(self) -> None:
        """It was written: its time begins anew."""
        if self.settings.ttl_s is not None:
            self.expires_s = time.time() + self.settings.ttl_s

    def counts(self) -> "Counts":
        """What its writes have made of it by now."""
        return Counts(self.version, self.patterns, self.expires_s)

    def take_back(self, counts: "Counts") -> None:
        """Makes it what it was before writes that the store has not."""
        self.version, self.patterns, self.expires_s = counts.version, counts.patterns, counts.expires_s

    def last_sequence(self, client_id: str) -> int:
        """Highest number of that client's stores and erases; 0 if none is remembered."""
        ledger = (self._ledgers or {}).get(client_id)
        return (self._former or {}).get(client_id, 0) if ledger is None else ledger.last

    def ledger(self, client_id: str) -> Ledger[Answer]:
        """The stores and erases of that client."""
        if self._ledgers is None:
            self._ledgers = {}
        ledger = self._ledgers.pop(client_id, None) or self._returned(client_id)
        self._ledgers[client_id] = ledger
        if len(self._ledgers) > REMEMBERED_CLIENTS:
            silent = next(iter(self._ledgers))
            self.add_former(silent, self._ledgers.pop(silent).last)
        return ledger

    def add_former(self, client_id: str, last: int) -> None:
        """Remember no more of a client than its highest number, and nothing of the one silent for longest."""
        if self._former is None:
            self._former = {}
        self._former[client_id] = last
        if len(self._former) > KNOWN_CLIENTS - REMEMBERED_CLIENTS:
            silent = next(iter(self._former))
            del self._former[silent]
            if self.id:
                self.departed = self.departed or []
                self.departed.append(silent)

    def forgot(self, clients: int) -> None:
        """The store has forgotten so many of those that departed, the first ones."""
        if self.departed:
            del self.departed[:clients]

    def _returned(self, client_id: str) -> Ledger[Answer]:
        """A ledger of a client that has none at hand."""
        last = (self._former or {}).pop(client_id, 0)
        return Ledger(last=last, elsewhere=last)


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
            raise MemoryNotFound(f"no memory {name!r}; create it first")
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

    def part(self, goes: Callable[[str], bool]) -> Sequence[MemoryRecord[Answer, PageType]]:
        """Takes the memories out whose names `goes` is true of, and marks them moved."""
        moved = [record for name, record in self._records.items() if goes(name)]
        for record in moved:
            record.moved = True
            del self._records[record.name]
            self._mortal.pop(record.name, None)
        self._names = [name for name in self._names if name in self._records] if moved else self._names
        return moved

    def page(self, *, prefix: str, after: str, size: int) -> Sequence[MemoryRecord[Answer, PageType]]:
        """Up to `size` memories with that prefix and names beyond `after`, in the order of names."""
        start = max(bisect.bisect_left(self._names, prefix), bisect.bisect_right(self._names, after))
        names = self._names[start : start + size]
        return [self._records[name] for name in names if name.startswith(prefix)]
