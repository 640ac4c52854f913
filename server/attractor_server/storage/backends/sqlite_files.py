"""Files of an SQLite store: page checksums, the kind of file system, and the lock of its folder."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import apsw
from apsw import sqlite_extra

from attractor_server.errors import SettingsError
from attractor_server.files import make_folder

_VFS = "cksmvfs"

_BYTES = 8
"""Of each page, for its checksum"""


def connect(path: Path) -> apsw.Connection:
    """Open a file by a connection that raises `apsw.IOError` where a page is not as it was written.

    A file that was made without checksums stays without. Whoever else writes to one with them has to do it this way.
    """
    _load()
    connection = apsw.Connection(str(path), vfs=_VFS)
    connection.reserve_bytes(reserve=_BYTES)
    return connection


def connect_read_only(path: Path, *, damaged: bool) -> apsw.Connection:
    """Open a file by a connection that changes nothing, and reads damaged pages, too, if it is asked to."""
    _load()
    connection = apsw.Connection(str(path), vfs=_VFS, flags=apsw.SQLITE_OPEN_READONLY)
    if damaged:
        connection.execute("PRAGMA checksum_verification = OFF")
    return connection


def find_damaged_pages(connection: apsw.Connection, path: Path) -> Iterator[int]:
    """Yield the numbers of pages that are not as they were written; none of a file that was made without checksums.

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
    """Return whether the error says that a page is not as it was written."""
    return getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA


NETWORK = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone"),
        *("fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    }
)

MOUNTS = Path("/proc/self/mountinfo")

_ESCAPED = re.compile(r"\\([0-7]{3})")


def network_file_system(folder: Path, mounts: Path = MOUNTS) -> str:
    """Return the kind of network file system that the folder is on, or will be; "" for a local, or an unknown one."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    place, kind = Path(), ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), before.split()[4]))
        if folder.resolve().is_relative_to(mounted) and len(mounted.parts) >= len(place.parts):
            place, kind = mounted, after.split()[0]
    return kind if kind in NETWORK else ""


LOCK_FILE = "attractor.lock"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder, made if need be, until the end of the block, or of the process.

    Raises:
        SettingsError: another server has it, or it cannot be made.
    """
    try:
        make_folder(folder)
        file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"data_dir: saw {str(folder)!r}, which cannot be used: {error.strerror}") from error
    try:
        _take(file, folder)
        yield
    finally:
        os.close(file)


def _take(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(file, 20, 0).decode(errors="replace").strip()
        raise SettingsError(
            f"data_dir: saw {str(folder)!r}, which the server with process id {holder} has; "
            "stop that one, or name another folder"
        ) from error
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
