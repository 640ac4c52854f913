"""Purging: deleted bytes leave the store's log, too, and writers do not wait for readers."""

import logging
import threading
from contextlib import closing
from pathlib import Path

import apsw

from attractor_server.storage.backends.sqlite_files import connect

logger = logging.getLogger(__name__)

RETRY_S = 0.25

BUSY_MS = 20
"""How long a retry waits for others; who writes waits for as long then"""


def empty_log(connection: apsw.Connection) -> bool:
    """Fold the log into the file, as far as readers and writers allow; return whether nothing is left in the log."""
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
    return not busy


class Purging:
    """A thread that empties a store's log, and ends when that is done.

    It has a connection of its own, so that the store is free for others meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._owed = False
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def begin(self) -> None:
        """Return at once; the log is emptied as soon as its last reader has ended."""
        with self._lock:
            self._owed = True
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="purging", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop; what is left in the log goes when the store is opened the next time."""
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        try:
            with closing(connect(self._path)) as connection:
                connection.set_busy_timeout(BUSY_MS)
                while not self._closed.wait(RETRY_S) and self._is_owed():
                    # Most of the work first, and beside those who write.
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    if not empty_log(connection):
                        self._owed = True
        except (apsw.Error, OSError) as error:  # the next deletion begins anew
            logger.warning("deleted bytes may still be in the log of %s: %s", self._path, error)
            with self._lock:
                self._thread = None

    def _is_owed(self) -> bool:
        """Return whether there is something to do; if not, the thread ends with this."""
        with self._lock:
            owed, self._owed = self._owed, False
            if not owed:
                self._thread = None
            return owed
