"""Room on a store's disk that is kept for deletions: they write to the log, too, before they give anything back."""

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 8 << 20
"""More than the log has before SQLite folds it into the file, and than a page of a memory"""

LEAST_BYTES = 64 << 10


class Reserve:
    """A file beside the store, which all shards of a machine share, that holds room until it is needed.

    What others write at that moment may take it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_needed(self) -> bool:
        """Return whether the disk has less room left than the reserve is to hold."""
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < RESERVE_BYTES

    def give(self) -> None:
        """Let others have the room."""
        with suppress(OSError):
            os.truncate(self._path, 0)

    def take(self) -> None:
        """Hold the room again, or of a disk that has less as much as there is."""
        if not hasattr(os, "posix_fallocate"):  # as on macOS
            return
        with suppress(OSError):
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _extend(file)
            finally:
                os.close(file)


def _extend(file: int) -> None:
    size, found = RESERVE_BYTES, os.fstat(file).st_size
    while size > found and size >= LEAST_BYTES:
        try:
            os.posix_fallocate(file, 0, size)
        except OSError:
            os.ftruncate(file, found)  # of what was not to be had, some may have been taken
            size //= 2
        else:
            return
