"""A copy of a store in a folder of its own, taken while servers write to it."""

import os
from collections.abc import Sequence
from pathlib import Path

import apsw

from attractor_server.errors import SettingsError, StoreFailed
from attractor_server.storage.database import FILE
from attractor_server.storage.looking import Fault, page_fault, read_only
from attractor_server.storage.page_checksums import damaged_pages, opened


def copy(source: Path, target: Path) -> Sequence[Fault]:
    """Copies the store in the folder `source`, as it is now, into the new folder `target`; on the disk at return.

    What is damaged is copied as it is, and its pages get new checksums: they are returned, for the copy does not tell.

    Raises:
        SettingsError: there is no store, or something is in the target.
        StoreDamaged: the store cannot be read.
        StoreFailed: the copy could not be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"TARGET: saw {str(target)!r}, where something is; expected the name of a new folder")
    with read_only(source, damaged=True) as connection:
        damaged = [page_fault(source, page) for page in damaged_pages(connection, source / FILE)]
        try:
            target.mkdir(parents=True, exist_ok=True)
            written = opened(target / FILE)
            with written.backup("main", connection, "main") as backup:
                backup.step(-1)  # all at once: one view, however much is written meanwhile
            written.close()
            for path in (target / FILE, target, target.parent):
                _synchronise(path)
        except (apsw.Error, OSError) as error:
            raise StoreFailed(f"{target} could not be written: {error}; delete it, and make room") from error
    return damaged


def _synchronise(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
