"""Memories in a backend store without an engine, a pattern for each version."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from attractor_server.memories.records import Change, Entry, Floats, Image, Item, NewMemory, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.backends.sqlite import FILE, SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.tables import snapshots as snapshot_rows


def made(journal: SqlMemoryStore, name: str, *, ttl_s: float | None = None) -> StoredMemory:
    settings = MemorySettings(page_patterns=4, ttl_s=ttl_s)
    return journal.create([NewMemory(name=name, model="m", model_digest="sha256:1", settings=settings)])[0]


def some(seed: int, size: int = 300) -> Floats:
    return np.random.default_rng(seed).standard_normal((1, size), dtype=np.float32)


def store(journal: SqlMemoryStore, memory: int, version: int, *, page: int = 0, image: bytes = b"") -> None:
    entry = Entry(page=page, version=version, written=version, values=some(version), items=[Item(id=f"v{version}")])
    images = [Image(page=page, version=version, content=image)] if image else []
    change = Change(memory=memory, version=version, patterns=version, pages={page: 1}, entries=[entry], images=images)
    journal.commit([change])


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.name.startswith(FILE))


def found(journal: SqlMemoryStore, name: str) -> StoredMemory:
    memory = journal.find(name)
    assert memory is not None
    return memory


def versions(journal: SqlMemoryStore, memory: int, page: int = 0) -> list[int]:
    return [entry.version for entry in journal.page(memory, page, all_entries=True).entries]


def store_pages(journal: SqlMemoryStore, memory: int, pages: Iterable[int]) -> None:
    """Store a pattern in each of these pages, in one transaction."""
    entries = [Entry(page=page, version=1, written=1, values=some(page)) for page in pages]
    images = [Image(page=page, version=1, content=b"weights") for page in pages]
    counts = dict.fromkeys(pages, 1)
    change = Change(memory=memory, version=1, patterns=len(counts), pages=counts, entries=entries, images=images)
    journal.commit([change])


def take_many(journal: SqlMemoryStore, memory: int, tags: Iterable[str]) -> None:
    """Takes snapshots in one transaction: each in its own would wait for the disk."""
    with journal._change() as cursor:
        for tag in tags:
            snapshot_rows.snapshot(cursor, memory, tag, now_s=0.0)


@contextmanager
def counted(store: SqliteDatabase) -> Iterator[list[int]]:
    """The steps that SQLite's machine takes for each statement in the block."""
    steps: list[int] = []

    def note(event: dict[str, Any]) -> None:
        steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])

    store._connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, note)
    try:
        yield steps
    finally:
        store._connection.trace_v2(0, None)
