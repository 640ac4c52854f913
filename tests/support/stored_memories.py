"""Memories in a backend store without an engine, a pattern for each version."""

from pathlib import Path

import numpy as np

from attractor_server.memories.records import Change, Entry, Floats, Image, Item, NewMemory, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.backends.sqlite import FILE
from attractor_server.storage.memory_store import SqlMemoryStore


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
