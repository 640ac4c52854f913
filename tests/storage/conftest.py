"""Stores of every backend: of those that ship, and of the one that `docs/extending.md` writes."""

from pathlib import Path

import pytest
from tests.support.extending import module_of
from tests.support.stores import new_store

from attractor_server.storage.backends.opening import BACKENDS


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def backend_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a new store of each backend; one in memory is this process's alone."""
    if request.param == "memory":
        monkeypatch.setitem(BACKENDS, "memory", module_of("A backend").MemoryBackend())
        return "memory:test"
    return new_store(request.param, request, tmp_path)
