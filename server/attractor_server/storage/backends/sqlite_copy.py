"""A copy of a store in a folder of its own, taken while servers write to it."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import apsw

from attractor_server.errors import SettingsError, StoreFailed
from attractor_server.files import make_file, make_folder
from attractor_server.storage.artifacts import MODELS, Artifacts
from attractor_server.storage.backends.base import Fault
from attractor_server.storage.backends.sqlite import FILE
from attractor_server.storage.backends.sqlite_files import connect, find_damaged_pages
from attractor_server.storage.backends.sqlite_inspection import page_fault, read_only

ARTIFACTS = "artifacts"
"""Folder in a copy"""


def copy(source: Path, target: Path, artifacts: Artifacts | None = None) -> Sequence[Fault]:
    """Copy the store in the folder `source`, as it is now, into the new folder `target`; it is on the disk at return.

    What it has in an artifact store comes along, into a folder in there. What is damaged is copied as it is, and its
    pages get new checksums: they are returned, for the copy does not tell.

    Raises:
        SettingsError: there is no store, or something is in the target.
        StoreDamaged: the store cannot be read.
        StoreFailed: the copy could not be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"TARGET: saw {str(target)!r}, where something is; expected the name of a new folder")
    with read_only(source, damaged=True) as connection:
        damaged = [page_fault(source, page) for page in find_damaged_pages(connection, source / FILE)]
        if artifacts is not None:  # most of it first: a copy may refer to what the server deletes in the meantime
            _copy_objects(connection, artifacts, Artifacts(target / ARTIFACTS))
        try:
            make_folder(target)
            make_file(target / FILE)
            written = connect(target / FILE)
            with written.backup("main", connection, "main") as backup:
                backup.step(-1)  # all at once: one view, however much is written meanwhile
            written.close()
            for path in (target / FILE, target, target.parent):
                _synchronise(path)
        except (apsw.Error, OSError) as error:
            raise StoreFailed(f"{target} could not be written: {error}; delete it, and make room") from error
    if artifacts is not None:
        with read_only(target, damaged=True) as copied:
            _copy_objects(copied, artifacts, Artifacts(target / ARTIFACTS))
    return damaged


def _copy_objects(connection: apsw.Connection, artifacts: Artifacts, target: Artifacts) -> None:
    """Copy the objects that images are in, and the models. Missing and damaged ones are for whoever verifies."""
    images = [location for (location,) in connection.execute("SELECT location FROM images WHERE location IS NOT NULL")]
    for location in (*images, *artifacts.locations(MODELS, before=datetime.now(UTC))):
        if not target.has(location) and (content := artifacts.find(location)) is not None:
            target.put_at(location, content)


def _synchronise(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
