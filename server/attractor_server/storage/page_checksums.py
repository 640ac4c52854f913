"""A checksum on every page of the store's file, by an extension of SQLite's own: over rows, indexes and all between."""

from pathlib import Path

import apsw
from apsw import sqlite_extra

_VFS = "cksmvfs"
_BYTES = 8
"""Of each page, for its checksum"""


def opened(path: Path) -> apsw.Connection:
    """A connection that raises `apsw.IOError` where a page is not as it was written.

    A file that was made without checksums stays without. Whoever else writes to one with them has to do it this way.
    """
    if _VFS not in apsw.vfs_names():
        sqlite_extra.load(apsw.Connection(":memory:"), "cksumvfs")
    connection = apsw.Connection(str(path), vfs=_VFS)
    connection.reserve_bytes(reserve=_BYTES)
    return connection


def is_damage(error: BaseException) -> bool:
    """Whether the error says that a page is not as it was written."""
    return getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA
