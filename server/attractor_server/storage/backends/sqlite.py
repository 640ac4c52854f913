"""The backend store: one SQLite file, opened so that a committed transaction survives a power cut."""

import errno
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from attractor_server.errors import StoreDamaged, StoreFailed, StoreFull
from attractor_server.files import make_file, make_folder
from attractor_server.storage.backends.base import BUSY_MS
from attractor_server.storage.backends.sqlite_files import connect, is_damage, network_file_system
from attractor_server.storage.backends.sqlite_purge import Purging, empty_log
from attractor_server.storage.backends.sqlite_reserve import RESERVE_BYTES, Reserve
from attractor_server.storage.database import DAMAGED, FAILED, FULL, Cursor, number
from attractor_server.storage.schema import FLAT_INDEX, FORMAT, migrate
from attractor_server.storage.text_schema import SQLITE_FIND

logger = logging.getLogger(__name__)

FILE = "attractor.db"

SAFE_SQLITE: Final = (3, 51, 3)
"""Older ones can corrupt a write-ahead log that several connections use (fixed in 3.51.3)"""

_BEACON = struct.Struct("<QI")


class SqliteDatabase:
    """One connection to the store, for all threads of a shard; shards of a machine open the same file."""

    locking: Final = ""
    """A transaction is the only one that writes"""
    claiming: Final = ""
    finding_words: Final = SQLITE_FIND

    def __init__(self, folder: Path, *, busy_ms: int = BUSY_MS) -> None:
        """Make the file where there is none, and bring an older format up to date.

        Raises:
            StoreDamaged: the file is no store, of a newer format, or behind its beacon.
            StoreFailed: the folder cannot be used, or is on a network file system.
        """
        if tuple(map(int, apsw.sqlite_lib_version().split("."))) < SAFE_SQLITE:
            raise StoreFailed(f"SQLite {apsw.sqlite_lib_version()} can corrupt its log; expected 3.51.3 or newer")
        if kind := network_file_system(folder):
            raise StoreFailed(f"{folder} is on {kind}, where SQLite's log can be damaged; expected a local disk")
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._busy_ms = busy_ms
        self._purging = Purging(self._path)
        self._reserve = Reserve(Path(f"{self._path}-reserve"))
        with _translate_errors(self._path):
            make_folder(folder)
            if self._reserve.is_needed():  # for the files beside the store, which the last one to leave it took along
                self._reserve.give()
            log_bytes = log.stat().st_size if (log := Path(f"{self._path}-wal")).exists() else 0
            make_file(self._path)  # whose mode SQLite gives to its log
            self._connection = connect(self._path)
            self._prepare()
            with suppress(apsw.FullError, apsw.BusyError):  # without it lists take longer
                self._connection.execute(FLAT_INDEX.format("IF NOT EXISTS"))
            self._beacon = os.open(f"{self._path}-beacon", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._check_tail()
        self._reserve.take()
        if log_bytes:  # a store that ended while somebody read may have left deleted bytes in it
            self._purging.begin()

    def __str__(self) -> str:
        return str(self._path)

    def close(self) -> None:
        """Leave the store; the last one to leave folds the log into the file."""
        self._purging.close()
        with self._lock:
            self._connection.close()
            os.close(self._beacon)

    @contextmanager
    def transaction(self, *, reserved: bool = False) -> Iterator[Cursor]:
        """Apply everything in the block, or nothing; it is on the disk when the block has ended.

        One that is `reserved` may use the room that is kept for those that make some; any may, where the file has as
        much of its own: what is lent comes back then.

        Raises:
            StoreFailed: it was not committed.
        """
        with self._lock, _translate_errors(self._path):
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            if lent := self._reserve.is_needed() and (reserved or self._has_room()):
                self._reserve.give()
            try:
                yield cursor
                count = number(
                    cursor.execute("UPDATE counters SET value = value + 1 WHERE name = 'commits' RETURNING value")
                )
                cursor.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
            finally:
                if lent:
                    self._take_reserve()
            self._write_beacon(count)

    @contextmanager
    def read(self) -> Iterator[Cursor]:
        """Give a cursor for queries, as one view of the store.

        Raises:
            StoreFailed: the store cannot be read.
        """
        with self._lock, _translate_errors(self._path):
            cursor = self._connection.cursor()
            cursor.execute("BEGIN")
            try:
                yield cursor
            finally:
                if self._connection.in_transaction:  # an error of the disk has ended it
                    cursor.execute("ROLLBACK")

    def purge(self) -> None:
        """Fold the log into the file, so that deleted bytes are in neither.

        Where others read or write it waits for none of them: the rest is done soon after they have ended.
        """
        with self._lock, _translate_errors(self._path):
            if lent := self._reserve.is_needed():
                self._reserve.give()
            try:
                done = self._empty_log()
            finally:
                if lent:
                    self._reserve.take()
        if not done:
            self._purging.begin()

    def is_short(self) -> bool:
        """Return whether the disk is so full that no more should be deleted in one transaction than must be."""
        return self._reserve.is_needed()

    def _has_room(self) -> bool:
        """Return whether deletions left so much room in the file that it need not grow."""
        pages = number(self._connection.execute("PRAGMA freelist_count"))
        return pages * number(self._connection.execute("PRAGMA page_size")) >= RESERVE_BYTES

    def _empty_log(self) -> bool:
        """Fold the log into the file; return whether nothing is left in it, since nobody else was busy with it."""
        self._connection.set_busy_timeout(0)
        try:
            return empty_log(self._connection)
        except apsw.BusyError:
            return False
        finally:
            self._connection.set_busy_timeout(self._busy_ms)

    def _take_reserve(self) -> None:
        """Hold room again, with what the log gives back."""
        with suppress(apsw.Error):
            self._empty_log()
        self._reserve.take()

    def _prepare(self) -> None:
        connection = self._connection
        connection.set_busy_timeout(self._busy_ms)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        with _translate_errors(self._path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = number(connection.execute("PRAGMA user_version"))
                if found > FORMAT:
                    raise StoreDamaged(
                        f"{self._path} has format {found}; this version reads up to {FORMAT}: upgrade the server"
                    )
                migrate(connection, found)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        connection.execute("PRAGMA foreign_keys = ON")

    def _check_tail(self) -> None:
        """Hold the store to its beacon, which knows how far it had come: SQLite drops a log's damaged end silently.

        Raises:
            StoreDamaged: the store is behind.
        """
        record = os.pread(self._beacon, _BEACON.size, 0)
        count = number(self._connection.execute("SELECT value FROM counters WHERE name = 'commits'"))
        if (seen := read_beacon(record)) is not None and seen > count:
            self.close()
            raise StoreDamaged(
                f"{self._path} ends at commit {count}, and commit {seen} was made: its log was damaged or taken away. "
                "Restore both files, or delete the file that ends in -beacon to go on without what is lost"
            )

    def _write_beacon(self, count: int) -> None:
        """Note how far the store is. Not synchronised: a beacon that is behind raises no alarm.

        That it fails is no failure of the transaction, which is on the disk.
        """
        place = count.to_bytes(8, "little")
        try:
            os.pwrite(self._beacon, place + zlib.crc32(place).to_bytes(4, "little"), 0)
        except OSError as error:
            logger.warning("the beacon beside %s could not be written: %s", self._path, error)


def read_beacon(record: bytes) -> int | None:
    """Return the number of the commit that a beacon's file names; None where it names none, or is damaged."""
    if len(record) < _BEACON.size:
        return None
    seen, checksum = _BEACON.unpack(record[: _BEACON.size])
    return int(seen) if checksum == zlib.crc32(record[:8]) else None


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the system as StoreFailed or StoreDamaged."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
        raise StoreDamaged(f"{path} is damaged: {error}; restore it from a backup", told=DAMAGED) from error
    except (apsw.Error, OSError) as error:
        if is_damage(error):
            raise StoreDamaged(
                f"{path} is damaged, a page has another checksum; restore it from a backup",
                told="the store is damaged, a page has another checksum; restore it from a backup",
            ) from error
        if isinstance(error, apsw.FullError) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
            raise StoreFull(
                f"the store {path} failed and changed nothing: {error}; make room on its disk", told=FULL
            ) from error
        raise StoreFailed(
            f"the store {path} failed and changed nothing: {error}; try again in a moment", told=FAILED
        ) from error
