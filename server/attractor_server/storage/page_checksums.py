"""A checksum on every page of the store's file, by an extension of SQLite's own: over rows, indexes and all between."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import apsw
from apsw import sqlite_extra

_VFS = "cksmvfs"
_BYTES = 8
"""Of each page, for its checksum"""


def opened(path: Path) -> apsw.Connection:
    """A connection that raises `apsw.IOError` where a page is not as it was written.

    A file that was made without checksums stays without. Whoever else writes to one with them has to do it this way.
    """
    _load()
    connection = apsw.Connection(str(path), vfs=_VFS)
    connection.reserve_bytes(reserve=_BYTES)
    return connection


def opened_to_look(path: Path, *, damaged: bool) -> apsw.Connection:
    """A connection that changes nothing, and reads damaged pages, too, if it is asked to."""
    _load()
    connection = apsw.Connection(str(path), vfs=_VFS, flags=apsw.SQLITE_OPEN_READONLY)
    if damaged:
        connection.execute("PRAGMA checksum_verification = OFF")
    return connection


def damaged_pages(connection: apsw.Connection, path: Path) -> Iterator[int]:
    """Numbers of the pages in the file that are not as they were written; none where it was made without checksums.

    A page that is being written right now is looked at again.
    """
    if connection.reserve_bytes() != _BYTES:
        return
    size = int(connection.pragma("page_size"))
    with path.open("rb") as file:
        for number in range(path.stat().st_size // size):
            if not any(_fits(connection, file, number * size, size) for _ in range(2)):
                yield number + 1


def _fits(connection: apsw.Connection, file: BinaryIO, at: int, size: int) -> bool:
    file.seek(at)
    return connection.execute("SELECT verify_checksum(?)", (file.read(size),)).fetchall() == [(1,)]


def _load() -> None:
    if _VFS not in apsw.vfs_names():
        sqlite_extra.load(apsw.Connection(":memory:"), "cksumvfs")


def is_damage(error: BaseException) -> bool:
    """Whether the error says that a page is not as it was written."""
    return getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA
