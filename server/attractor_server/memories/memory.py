"""A memory of a shard: its pages, its settings, and the writes of its clients."""

import time
from collections import Counter
from dataclasses import dataclass, field

from attractor_server.errors import MemoryNotFound
from attractor_server.memories.ledger import REMEMBERED_ANSWERS, Applied, Ledger
from attractor_server.memories.page import Page
from attractor_server.memories.records import StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.memories.store import MemoryStore

REMEMBERED_CLIENTS = 64
"""Clients whose answers a record has at hand; of the one silent for longest the store alone has them."""

KNOWN_CLIENTS = 1024
"""Clients whose highest numbers a record has at hand, and whose answers its store has"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of a memory that change with each write."""

    version: int
    patterns: int
    expires_s: float | None


@dataclass(eq=False, slots=True)
class MemoryRecord:
    """One memory of this shard. The engine alone changes `pages`, `patterns` and `version`."""

    name: str
    model: str
    model_digest: str
    created_s: float
    settings: MemorySettings
    pages: list[Page] = field(default_factory=list)
    """The last one is being filled, those before it are sealed; none until the first store."""
    patterns: int = 0
    version: int = 0
    deleted: bool = False
    moved: bool = False
    """Another shard has it, or will when what was accepted is finished; nothing new is taken"""
    id: int = 0
    """Number in the backend store; 0 for a memory that no store has"""
    expires_s: float | None = None
    """When it is forgotten unless it is written before"""
    at_hand: bool = True
    """Whether the engine has its pages; if not, it makes them as the store has them before anything else"""
    _ledgers: dict[str, Ledger] | None = None
    """By client, the one silent for longest first; None for none, which takes less memory"""
    _former: dict[str, int] | None = None
    """Highest numbers of the clients before those, the one silent for longest first; None for none"""
    departed: list[str] | None = None
    """Clients before those, whose answers the store is to forget; None for none"""

    def touch(self) -> None:
        """Note that it was written: its time begins anew."""
        if self.settings.ttl_s is not None:
            self.expires_s = time.time() + self.settings.ttl_s

    def counts(self) -> "Counts":
        """Return the numbers that its writes have made by now."""
        return Counts(self.version, self.patterns, self.expires_s)

    def take_back(self, counts: "Counts") -> None:
        """Make it what it was before writes that the store has not."""
        self.version, self.patterns, self.expires_s = counts.version, counts.patterns, counts.expires_s

    def knows_client(self, client_id: str) -> bool:
        """Return whether numbers of that client's stores and erases are remembered."""
        return client_id in (self._ledgers or {}) or client_id in (self._former or {})

    def last_sequence(self, client_id: str) -> int:
        """Return the highest number of that client's stores and erases; 0 if none is remembered."""
        ledger = (self._ledgers or {}).get(client_id)
        return (self._former or {}).get(client_id, 0) if ledger is None else ledger.last

    def ledger(self, client_id: str) -> Ledger:
        """Return the ledger of that client, which is the newest from now on."""
        if self._ledgers is None:
            self._ledgers = {}
        ledger = self._ledgers.pop(client_id, None) or self._new_ledger(client_id)
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
        """Note that the store has forgotten so many of the departed clients, the first ones."""
        if self.departed:
            del self.departed[:clients]

    def _new_ledger(self, client_id: str) -> Ledger:
        """Make a ledger of a client that has none at hand."""
        last = (self._former or {}).pop(client_id, 0)
        return Ledger(last=last, elsewhere=last)


def record_of(stored: StoredMemory) -> MemoryRecord:
    """Make the record of a memory that is not at hand, with its clients' write acks."""
    record: MemoryRecord = MemoryRecord(
        stored.name,
        stored.model,
        stored.model_digest,
        stored.created_s,
        stored.settings,
        pages=_pages_of(stored),
        patterns=stored.patterns,
        version=stored.version,
        expires_s=stored.expires_s,
        id=stored.id,
        at_hand=False,
    )
    for client, last in stored.former:
        record.add_former(client, last)
    counts = Counter(told.client for told in stored.told)
    for told in stored.told:
        ledger = record.ledger(told.client)
        if counts[told.client] >= REMEMBERED_ANSWERS and not ledger.last:
            ledger.forget(told.sequence - 1)  # older ones are kept no longer
        ledger.settle(told.sequence, Applied(told.version, told.patterns, told.erases, told.digest))
    return record


def find_stored(keeper: MemoryStore, memory: MemoryRecord) -> StoredMemory:
    """Return the memory as the store has it.

    Raises:
        MemoryNotFound: it has it no more.
    """
    stored = keeper.find(memory.name)
    if stored is None or stored.id != memory.id:
        raise MemoryNotFound(f"no memory {memory.name!r}; it was deleted")
    return stored


def reload(memory: MemoryRecord, stored: StoredMemory) -> None:
    """Make the record what the store has: its pages are not at hand from now on."""
    memory.model, memory.model_digest, memory.settings = stored.model, stored.model_digest, stored.settings
    memory.version, memory.patterns, memory.expires_s = stored.version, stored.patterns, stored.expires_s
    memory.pages[:] = _pages_of(stored)
    memory.at_hand = False


def _pages_of(stored: StoredMemory) -> list[Page]:
    return [Page(number=row.number, patterns=row.patterns) for row in stored.pages]
