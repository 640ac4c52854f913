"""One server at a time in a data folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attractor_server.errors import SettingsError
from attractor_server.storage.filesystem import make_folder

FILE = "attractor.lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, is this process's until the end of the block, or of the process.

    Raises:
        SettingsError: another server has it, or it cannot be made.
    """
    try:
        make_folder(folder)
        file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
