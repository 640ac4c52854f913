"""The secret of a store, which only its readers know: shards prove by it that they are fellows."""

import secrets

from attractor_server.storage.database import Store, number

_NAME = "fellows"
_BITS = 63


def secret_of(store: Store) -> str:
    """Return the store's secret, drawn by whoever asks for it first."""
    with store.transaction(reserved=True) as cursor:
        cursor.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (_NAME, secrets.randbits(_BITS))
        )
        drawn = number(cursor.execute("SELECT value FROM counters WHERE name = ?", (_NAME,)))
    return f"{drawn:x}"
