"""Which database a backend store is in."""

from pathlib import Path

from attractor_server.storage.backends.postgres import PostgresDatabase
from attractor_server.storage.backends.sqlite import BUSY_MS, SqliteDatabase
from attractor_server.storage.database import Store


def store_at(place: Path | str, *, busy_ms: int = BUSY_MS) -> Store:
    """The store in a folder, or at the address of a PostgreSQL database.

    A transaction in a folder waits for that of another for so long.

    Raises:
        SettingsError: the address cannot be read.
        StoreDamaged: there is something else, or of a newer format.
        StoreFailed: it cannot be used now.
    """
    return PostgresDatabase(place) if isinstance(place, str) else SqliteDatabase(place, busy_ms=busy_ms)
