"""Backend stores in PostgreSQL, `postgresql://…`, which shards on several nodes share."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from attractor_server.errors import ServerError, SettingsError
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends import postgres_lock
from attractor_server.storage.backends.base import BUSY_MS, Fault, View
from attractor_server.storage.backends.postgres import PostgresDatabase
from attractor_server.storage.backends.postgres_lock import Address
from attractor_server.storage.findings import Finding

SKEW_S = 5.0


class PostgresBackend:
    """A schema of a PostgreSQL database. See `Backend`."""

    def label(self, uri: str) -> str:
        """Return host and database, without the password."""
        return str(Address(uri))

    def open(self, uri: str, *, busy_ms: int = BUSY_MS) -> PostgresDatabase:
        """Connect, and make the tables where there are none."""
        return PostgresDatabase(uri)

    @contextmanager
    def inspect(self, uri: str) -> Iterator[View]:
        """Connect, and read as one view of the store."""
        with closing(PostgresDatabase(uri, make=False)) as store, store.read() as cursor:
            yield View(cursor, str(store), [])

    @contextmanager
    def lock(self, uri: str) -> Iterator[None]:
        """Make sure that the database can be used, then keep other servers out of it."""
        PostgresDatabase(uri).close()
        with postgres_lock.lock_database(uri):
            yield

    def examine(self, uri: str) -> Iterator[Finding]:
        """Yield what is said of the database: whether it can be used and keeps what it acknowledges, and its clock."""
        try:
            yield _examine(uri)
        except ServerError as error:
            empty = "where no memories are kept" in error.message
            yield Finding("ok" if empty else "wrong", "PostgreSQL", error.message)

    def copy(self, uri: str, target: Path, artifacts: Artifacts | None) -> Sequence[Fault]:
        """Leave it to PostgreSQL's own program, as the SettingsError says that this raises."""
        address = Address(uri)
        raise SettingsError(
            f"PostgreSQL makes its own copies: pg_dump --format=custom --file='{target}' '{address}'; "
            f"bring one back by pg_restore --dbname='{address}' '{target}'"
        )


def _examine(uri: str) -> Finding:
    with closing(PostgresDatabase(uri, make=False)) as store, store.read() as cursor:
        theirs, fsync = cursor.execute(
            "SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION), current_setting('fsync')"
        ).fetchone()
    if fsync != "on":
        return Finding("wrong", "PostgreSQL", f"{store}: fsync is off, what is acknowledged may be lost")
    if abs(skew := theirs - time.time()) > SKEW_S:
        return Finding("warning", "PostgreSQL", f"{store}: its clock is {skew:+.0f} s from the one here")
    return Finding("ok", "PostgreSQL", str(store))
