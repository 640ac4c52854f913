"""The backends that there are, by the schemes of their addresses. Another one is a module, and a line here."""

from contextlib import AbstractContextManager

from attractor_server.storage.backends.base import BUSY_MS, Backend, View
from attractor_server.storage.backends.postgres_backend import PostgresBackend
from attractor_server.storage.backends.sqlite_backend import SqliteBackend
from attractor_server.storage.database import Store

_POSTGRES = PostgresBackend()

BACKENDS: dict[str, Backend] = {
    "sqlite": SqliteBackend(),
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
}


def backend_of(uri: str) -> Backend:
    """Return the backend that an address is for; of one that is for none, PostgreSQL's, which refuses it."""
    return BACKENDS.get(uri.partition(":")[0], _POSTGRES)


def open_store(uri: str, *, busy_ms: int = BUSY_MS) -> Store:
    """Open the store at an address. See `Backend.open`.

    Raises:
        SettingsError: the address cannot be read.
        StoreDamaged: there is something else, or of a newer format.
        StoreFailed: it cannot be used now.
    """
    return backend_of(uri).open(uri, busy_ms=busy_ms)


def inspect_store(uri: str) -> AbstractContextManager[View]:
    """Open the store at an address to be read alone. See `Backend.inspect`."""
    return backend_of(uri).inspect(uri)
