"""Stores of every backend: of those that ship, and of the one that `docs/extending.md` writes."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.extending import module_of
from tests.support.stores import new_store

from attractor_server.storage.backends.opening import BACKENDS, open_store
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def backend_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a new store of each backend; one in memory is this process's alone."""
    if request.param == "memory":
        monkeypatch.setitem(BACKENDS, "memory", module_of("A backend").MemoryBackend())
        return "memory:test"
    return new_store(request.param, request, tmp_path)


@pytest.fixture
def journal(backend_uri: str) -> Iterator[SqlMemoryStore]:
    store = open_store(backend_uri)
    with closing(store):
        yield SqlMemoryStore(store)


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[SqlMemoryStore]:
    """One whose files can be looked into."""
    with closing(SqliteDatabase(tmp_path)) as store:
        yield SqlMemoryStore(store)
