"""New and empty backend stores, for tests of any of them."""

from pathlib import Path

import pytest
from tests.support.postgresql import PostgresServer

from attractor_server.storage.backends.sqlite_backend import uri_of


def new_store(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a new store in SQLite or PostgreSQL."""
    if backend == "sqlite":
        return uri_of(tmp_path / "data")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.store()
