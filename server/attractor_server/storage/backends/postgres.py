"""The backend store in PostgreSQL, which shards on several nodes share."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg.types.numeric import Int8BinaryDumper

from attractor_server.errors import CommitUnknown, SettingsError, StoreDamaged, StoreFailed, StoreFull
from attractor_server.storage.backends.postgres_lock import Address
from attractor_server.storage.database import DAMAGED, FAILED, FULL, WAITING, Cursor, Row, number, several
from attractor_server.storage.schema import FLAT_INDEX, FORMAT, POSTGRES, bring_up, statements, tables
from attractor_server.storage.text_schema import POSTGRES_FIND

logger = logging.getLogger(__name__)

_SESSION: Final = b"""
SET lock_timeout = '15s';
SET idle_in_transaction_session_timeout = '10s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
"""
"""A stopped server that holds locks is cut off before whoever waits for them gives up"""

_MAKING: Final = 0x61747472_6163746F
"""The lock of whoever makes the tables"""

_WRITING, _READING = b"BEGIN", b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_DAMAGED = (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted)


class PostgresDatabase:
    """One connection to the store, for all threads of a shard; one that was lost is made anew for what comes next."""

    locking: Final = " FOR SHARE"
    claiming: Final = " FOR UPDATE"
    finding_words: Final = POSTGRES_FIND

    def __init__(self, uri: str, *, make: bool = True) -> None:
        """Connect, and make the tables where there are none, unless told not to.

        Raises:
            SettingsError: the address cannot be read, or there are no tables.
            StoreDamaged: the tables are of a newer format.
            StoreFailed: the database cannot be reached or used.
        """
        self._address = Address(uri)
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None
        try:
            if make:
                with self.transaction() as cursor:
                    self._prepare(cursor)
            with self.read() as cursor:
                self._check(cursor)
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return str(self._address)

    def close(self) -> None:
        """Leave the store."""
        with self._lock:
            self._leave()

    @contextmanager
    def transaction(self, *, reserved: bool = False) -> Iterator[Cursor]:
        """Apply everything in the block, or nothing; it is on the disk when the block has ended.

        Statements of which nothing is fetched are sent without waiting for their results.

        Raises:
            StoreFailed: it was not committed; or, as the error says then, the connection was lost while it was.
        """
        with self._lock, self._translate_errors(), self._run(_WRITING) as connection:
            with connection.pipeline():
                yield Statements(connection)
            self._commit(connection)

    @contextmanager
    def read(self) -> Iterator[Cursor]:
        """Give a cursor for queries, as one view of the store.

        Raises:
            StoreFailed: the store cannot be read.
        """
        with self._lock, self._translate_errors(), self._run(_READING) as connection:
            yield Statements(connection)
            connection.execute(b"ROLLBACK")

    def is_short(self) -> bool:
        """Return False: the disk is PostgreSQL's, and its administrator's matter."""
        return False

    def purge(self) -> None:
        """Do nothing: what was deleted goes when PostgreSQL vacuums, and its log is its administrator's matter."""

    @contextmanager
    def _run(self, begin: bytes) -> Iterator[psycopg.Connection]:
        """Run the block in a transaction, which is rolled back where the block fails."""
        connection = self._begin(begin)
        try:
            yield connection
        except BaseException:
            self._roll_back(connection)
            raise

    def _begin(self, begin: bytes) -> psycopg.Connection:
        """Begin a transaction; if the connection is gone, on a new one, which was asked for nothing yet."""
        if self._connection is not None:
            try:
                self._connection.execute(begin)
            except psycopg.OperationalError as error:
                logger.warning("the connection to %s was lost: %s", self, error)
                self._leave()
            else:
                return self._connection
        connection = self._connect()
        connection.execute(begin)
        return connection

    def _connect(self) -> psycopg.Connection:
        connection = psycopg.connect(self._address.parameters, autocommit=True)
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        self._connection = connection
        connection.execute(_SESSION)
        return connection

    def _commit(self, connection: psycopg.Connection) -> None:
        try:
            status = connection.execute(b"COMMIT").statusmessage
        except psycopg.OperationalError as error:
            if connection.closed:
                raise CommitUnknown(
                    f"the connection to {self} was lost in a commit, of which it is not known whether it was made: "
                    f"{error}; try again in a moment",
                    told="the connection to the store was lost in a commit, of which it is not known whether it was "
                    "made; try again in a moment",
                ) from error
            raise
        if status != "COMMIT":
            raise StoreFailed(f"the store {self} changed nothing: its answer to COMMIT was {status}", told=FAILED)

    def _roll_back(self, connection: psycopg.Connection) -> None:
        try:
            if not connection.closed:
                connection.execute(b"ROLLBACK")
                return
        except psycopg.Error as error:
            logger.warning("the connection to %s cannot be used any more: %s", self, error)
        self._leave()

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _prepare(self, cursor: Cursor) -> None:
        """Make the tables, or bring an older format up to date, one server at a time."""
        cursor.execute("SELECT pg_advisory_xact_lock(?)", (_MAKING,))
        if not _has_tables(cursor):
            for statement in statements(tables(POSTGRES)):
                cursor.execute(statement)
            cursor.execute("CREATE TABLE schema_version (version BIGINT NOT NULL)")
            cursor.execute("INSERT INTO schema_version VALUES (?)", (FORMAT,))
        elif 1 < (found := number(cursor.execute("SELECT version FROM schema_version"))) < FORMAT:
            bring_up(cursor, found, POSTGRES, now_s=time.time())
            cursor.execute("UPDATE schema_version SET version = ?", (FORMAT,))
        if not number(cursor.execute("SELECT count(to_regclass('flat_names'))")):
            cursor.execute(FLAT_INDEX.format(""))

    def _check(self, cursor: Cursor) -> None:
        if not _has_tables(cursor):
            raise SettingsError(f"backend_store_uri: saw {self}, where no memories are kept")
        found = number(cursor.execute("SELECT version FROM schema_version"))
        if found > FORMAT:
            raise StoreDamaged(f"{self} has format {found}; this version reads up to {FORMAT}: upgrade the server")
        if found < FORMAT:
            raise StoreDamaged(f"{self} has format {found}; expected {FORMAT}: serve it once with this version")
        if cursor.execute("SELECT current_setting('fsync')").fetchone() == ("off",):
            logger.warning("%s has fsync off: what was acknowledged is lost if its machine fails", self)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise errors of PostgreSQL as StoreFailed or StoreDamaged."""
        try:
            yield
        except _DAMAGED as error:
            raise StoreDamaged(f"{self} is damaged: {error}; restore it from a backup", told=DAMAGED) from error
        except psycopg.errors.DiskFull as error:
            raise StoreFull(f"the store {self} failed and changed nothing: {error}; make room", told=FULL) from error
        except psycopg.Error as error:
            raise StoreFailed(
                f"the store {self} failed and changed nothing: {error}; try again in a moment", told=FAILED
            ) from error


def _has_tables(cursor: Cursor) -> bool:
    return number(cursor.execute("SELECT count(to_regclass('schema_version'))")) > 0


ROWS_LIMIT = 1024
"""Of one statement, which can have 65,535 values"""


class Statements:
    """A cursor of which each statement has results of its own. See `database.Cursor`."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._results: psycopg.Cursor[Any] | None = None

    def execute(self, statement: str, values: Row = (), /) -> "Statements":
        """Run a statement; its rows are to be fetched."""
        self._results = self._connection.execute(translate(statement), values, binary=True)
        return self

    def executemany(self, statement: str, rows: Sequence[Row], /) -> None:
        """Run a statement for each row of values; an INSERT of many rows as few statements, in powers of two."""
        single, start = statement.endswith(")") and " VALUES (" in statement, 0
        while single and start < len(rows):
            part = rows[start : start + min(ROWS_LIMIT, 1 << (len(rows) - start).bit_length() - 1)]
            marks, values = several(part)
            self.execute(f"{statement.rpartition('(')[0]}{marks}", values)
            start += len(part)
        if rows and not single:
            self._connection.cursor().executemany(translate(statement), rows)

    def fetchone(self) -> Any:  # noqa: ANN401 - columns of any types
        """Return the next row, or None."""
        assert self._results is not None
        return self._results.fetchone()

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        assert self._results is not None
        return self._results.fetchall()

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left, one by one."""
        assert self._results is not None
        return iter(self._results)


@lru_cache
def translate(statement: str) -> bytes:
    """Put `%s` where a value goes, and a lock where one waits."""
    return statement.replace("%", "%%").replace("?", "%s").replace(WAITING, "FOR NO KEY UPDATE").encode()
