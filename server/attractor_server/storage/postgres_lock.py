"""One server at a time in a PostgreSQL database: its command holds a lock there, its shards need none.

Two servers would do no harm to what is kept, since each group of slots has one owner, but take it from each other.
"""

import logging
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from attractor_server.errors import SettingsError, StoreFailed
from attractor_server.storage.address import Address

logger = logging.getLogger(__name__)

TRY_S = 2.0
"""For so long the lock of a server that has just ended is waited for"""
TRY_EVERY_S = 0.1
LOOK_EVERY_S = 5.0
_SERVING: Final = 0x61747472
_SESSION: Final = b"SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
"""The lock of a machine that is gone goes with it"""
_HOLDER: Final = (
    "SELECT application_name, client_addr FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND granted AND datname = current_database()"
)
_NAME_BYTES: Final = 63


@contextmanager
def held(uri: str) -> Iterator[None]:
    """The store at that address is this server's until the end of the block, or of the process.

    Where the connection is lost it is taken anew.

    Raises:
        SettingsError: another server has it.
        StoreFailed: the database cannot be reached.
    """
    lock, stop = _Lock(Address(uri)), threading.Event()
    lock.take()
    keeper = threading.Thread(target=_keep, args=(lock, stop), name="store lock", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()
        lock.close()


class _Lock:
    """Of a session: it goes with the connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: psycopg.Connection | None = None

    def take(self) -> None:
        """Makes a connection that has the lock."""
        try:
            self._take()
        except psycopg.Error as error:
            self.close()
            raise StoreFailed(f"the store {self._address} cannot be locked: {error}; try again in a moment") from error
        except BaseException:
            self.close()
            raise

    def look(self) -> None:
        """Takes the lock anew where the connection was lost."""
        try:
            if self._connection is not None:
                self._connection.execute(b"SELECT 1")
                return
        except psycopg.Error:
            self.close()
        self.take()

    def close(self) -> None:
        """Lets the lock go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self) -> None:
        name = f"attractor serve, process {os.getpid()} on {socket.gethostname()}"
        connection = psycopg.connect(
            self._address.parameters, autocommit=True, application_name=name.encode()[:_NAME_BYTES].decode()
        )
        self._connection = connection
        connection.execute(_SESSION)
        schema = str(connection.execute(b"SELECT current_schema()").fetchone())
        key, end_s = (_SERVING, zlib.crc32(schema.encode()) >> 1), time.monotonic() + TRY_S
        while connection.execute(b"SELECT pg_try_advisory_lock(%s, %s)", key).fetchone() != (True,):
            if time.monotonic() > end_s:
                raise self._refusal(connection.execute(_HOLDER.encode(), key).fetchone())
            time.sleep(TRY_EVERY_S)

    def _refusal(self, holder: object) -> SettingsError:
        match holder:
            case (str(name), where) if name:
                who = f"{name!r}" if where is None else f"{name!r} at {where}"
            case _:
                who = "another one"
        return SettingsError(
            f"backend_store_uri: saw {self._address}, where a server stores already: {who}; "
            "stop that one, or name another database"
        )


def _keep(lock: _Lock, stop: threading.Event) -> None:
    while not stop.wait(LOOK_EVERY_S):
        try:
            lock.look()
        except SettingsError as error:
            logger.error("another server took the store while the connection to it was lost: %s", error.message)  # noqa: TRY400
        except StoreFailed as error:
            logger.warning("%s", error.message)
