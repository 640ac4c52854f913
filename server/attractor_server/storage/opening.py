"""Which database a backend store is in."""

from pathlib import Path

from attractor_server.storage.database import Database
from attractor_server.storage.postgres import Postgres
from attractor_server.storage.sql import Store


def store_at(place: Path | str | None) -> Store | None:
    """The store in a folder, or at the address of a PostgreSQL database; None for no place.

    Raises:
        SettingsError: the address cannot be read.
        StoreDamaged: there is something else, or of a newer format.
        StoreFailed: it cannot be used now.
    """
    if place is None:
        return None
    return Postgres(place) if isinstance(place, str) else Database(place)
