"""Memories of the backend store as records, before the engine has their pages. No torch here."""

from collections import Counter

from attractor_server.engine.keeper import Keeper
from attractor_server.engine.page import Page
from attractor_server.engine.work import Record
from attractor_server.errors import MemoryNotFound
from attractor_server.storage.catalog import REMEMBERED_ANSWERS, Applied, MemoryRecord
from attractor_server.storage.records import StoredMemory


def record_of(stored: StoredMemory) -> Record:
    """The record of a memory that is not at hand, with what its clients were told."""
    record: Record = MemoryRecord(
        stored.name,
        stored.model,
        stored.model_digest,
        stored.created_s,
        stored.settings,
        pages=_expected(stored),
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


def found(keeper: Keeper, memory: Record) -> StoredMemory:
    """The memory as the store has it.

    Raises:
        MemoryNotFound: it has it no more.
    """
    stored = keeper.find(memory.name)
    if stored is None or stored.id != memory.id:
        raise MemoryNotFound(f"no memory {memory.name!r}; it was deleted")
    return stored


def become(memory: Record, stored: StoredMemory) -> None:
    """Makes the record what the store has: its pages are not at hand from now on."""
    memory.model, memory.model_digest, memory.settings = stored.model, stored.model_digest, stored.settings
    memory.version, memory.patterns, memory.expires_s = stored.version, stored.patterns, stored.expires_s
    memory.pages[:] = _expected(stored)
    memory.at_hand = False


def _expected(stored: StoredMemory) -> list[Page]:
    return [Page(number=row.number, patterns=row.patterns) for row in stored.pages]
