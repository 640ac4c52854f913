"""Addresses of PostgreSQL databases, and the lock that lets one server use one."""

import logging
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from attractor_server.errors import SettingsError, StoreFailed
from attractor_server.storage.backends.postgres_password import SCHEMES

_EXPECTED: Final = (
    "expected postgresql://USER@HOST:PORT/DATABASE, where the characters %, /, @, :, [, ?, # and spaces of a password "
    "are percent-encoded, as %25 for %"
)

_DEFAULTS: Mapping[str, str] = {
    "application_name": "attractor",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "target_session_attrs": "read-write",
}
"""What the address does not say: a peer that is gone is noticed, and of several hosts the one that takes writes is
meant"""


class Address:
    """A database; as text it names no password.

    A password with characters that are not percent-encoded is taken for other parts of a URI. So no message repeats
    what cannot be read, nor does the text name a part that only such a password can be.
    """

    def __init__(self, uri: str) -> None:
        """Take apart a URI that begins with `postgresql://`.

        Raises:
            SettingsError: it is none.
        """
        if not uri.startswith(SCHEMES):
            raise SettingsError(f"backend_store_uri: saw one that does not begin with {SCHEMES[0]}; {_EXPECTED}")
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(uri).items() if value is not None}
        except (psycopg.Error, ValueError):  # whose words repeat it
            raise SettingsError(f"backend_store_uri: the address cannot be read; {_EXPECTED}") from None
        if not _can_be_meant(given):
            raise SettingsError(f"backend_store_uri: the address has a host or port that cannot be; {_EXPECTED}")
        self.parameters: str = make_conninfo("", **{**_DEFAULTS, **given})
        self._place = f"postgresql://{_host(given)}{_port(given)}/{_database(given)}"

    def __str__(self) -> str:
        return self._place


def _can_be_meant(given: Mapping[str, str]) -> bool:
    """Return whether hosts and ports are none that a password with `@`, `/` or `:` would make them."""
    hosts, ports = given.get("host", "").split(","), given.get("port", "").split(",")
    if any("@" in host[1:] for host in hosts) or any(port.strip(" +") and not port.strip().isdigit() for port in ports):
        return False
    return "user" in given or "@" not in given.get("dbname", "")


def _host(given: Mapping[str, str]) -> str:
    hosts = given.get("host", "").split(",")
    return ",".join(f"[{host}]" if ":" in host else host for host in hosts)


def _database(given: Mapping[str, str]) -> str:
    name = given.get("dbname", "")
    return "…" if set(name) & set("@:/=?") else name


def _port(given: Mapping[str, str]) -> str:
    return f":{given['port']}" if "port" in given else ""


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
def lock_database(uri: str) -> Iterator[None]:
    """Keep other servers out of the store at that address until the end of the block, or of the process.

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
    """A lock of a session: it goes with the connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: psycopg.Connection | None = None

    def take(self) -> None:
        """Make a connection that has the lock."""
        try:
            self._take()
        except psycopg.Error as error:
            self.close()
            raise StoreFailed(f"the store {self._address} cannot be locked: {error}; try again in a moment") from error
        except BaseException:
            self.close()
            raise

    def look(self) -> None:
        """Take the lock anew where the connection was lost."""
        try:
            if self._connection is not None:
                self._connection.execute(b"SELECT 1")
                return
        except psycopg.Error:
            self.close()
        self.take()

    def close(self) -> None:
        """Let the lock go."""
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
