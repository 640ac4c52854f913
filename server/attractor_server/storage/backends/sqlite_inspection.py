"""SQLite stores that are only read: beside the server that has them, or without one."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from attractor_server.errors import SettingsError, StoreDamaged, StoreFailed
from attractor_server.storage.backends.base import BUSY_MS, Fault, View
from attractor_server.storage.backends.sqlite import FILE, read_beacon
from attractor_server.storage.backends.sqlite_files import connect_read_only, find_damaged_pages, is_damage
from attractor_server.storage.database import Cursor, number
from attractor_server.storage.schema import FORMAT

INTEGRITY_LIMIT = 100
"""Lines of what SQLite finds that are kept"""


@contextmanager
def inspect(folder: Path) -> Iterator[View]:
    """Open the store in a folder, in which nothing can be changed; with what SQLite finds wrong in it as a whole.

    Raises:
        SettingsError: there is none.
        StoreDamaged: too much is damaged to read it, or it is of another format.
        StoreFailed: it cannot be read.
    """
    path = folder / FILE
    with read_only(folder, damaged=True) as connection:
        cursor, seen = connection.cursor(), _load_beacon(path)  # first: what is committed meanwhile is no fault
        cursor.execute("BEGIN")
        found = number(cursor.execute("PRAGMA user_version"))
        if found != FORMAT:
            raise StoreDamaged(f"{path} has format {found}; expected {FORMAT}: serve it once with this version")
        pages = [page_fault(folder, page) for page in find_damaged_pages(connection, path)]
        yield View(cursor, str(path), [*pages, *_find_faults(cursor, path, seen)])


@contextmanager
def read_only(folder: Path, *, damaged: bool = False) -> Iterator[apsw.Connection]:
    """Connect to the file of the store in that folder; read its damaged pages, too, if they are asked for.

    Raises:
        SettingsError: there is none.
        StoreDamaged: it is no store.
        StoreFailed: it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise SettingsError(f"data_dir: saw {str(folder)!r}, where no memories are kept; expected a folder with {FILE}")
    try:
        with closing(connect_read_only(path, damaged=damaged)) as connection:
            connection.set_busy_timeout(BUSY_MS)
            yield connection
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreDamaged(f"{path} is damaged: {error}; restore it from a backup") from error
    except (apsw.Error, OSError) as error:
        if is_damage(error):
            raise StoreDamaged(f"{path} is damaged, a page has another checksum; restore it from a backup") from error
        raise StoreFailed(f"{path} cannot be read: {error}") from error


def page_fault(folder: Path, page: int) -> Fault:
    """Return the fault of a page of the store's file that has another checksum."""
    return Fault(f"{folder / FILE}, page {page} of the file", "it is not as it was written")


def _find_faults(cursor: Cursor, path: Path, seen: int | None) -> Iterator[Fault]:
    for (line,) in cursor.execute(f"PRAGMA integrity_check({INTEGRITY_LIMIT})").fetchall():
        if line != "ok":
            yield Fault(str(path), line)
    for table, row, parent, _ in cursor.execute("PRAGMA foreign_key_check").fetchall():
        which = "a row" if row is None else f"row {row}"
        yield Fault(str(path), f"{which} of {table} belongs to a row of {parent} that is not there")
    commits = number(cursor.execute("SELECT value FROM counters WHERE name = 'commits'"))
    if seen is not None and seen > commits:
        yield Fault(str(path), f"it ends at commit {commits}, and commit {seen} was made: its log was damaged")


def _load_beacon(path: Path) -> int | None:
    """Return the number of the commit that the beacon beside the store names, if there is one."""
    try:
        file = os.open(f"{path}-beacon", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        return read_beacon(opened.read())
