"""Files and folders that this user alone can read."""

import os
from contextlib import suppress
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make the folder, and those above it that are missing, for this user alone, whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            path.chmod(0o700)
    folder.mkdir(exist_ok=True)


def make_file(path: Path) -> None:
    """Make an empty file for this user alone, whatever the umask; one that is there is not touched.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(file, 0o600)
        os.close(file)
