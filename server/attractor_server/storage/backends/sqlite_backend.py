"""Backend stores in a folder, `sqlite:` and its absolute path, which shards of one machine share."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from attractor_server.errors import ServerError, SettingsError
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends import sqlite_inspection
from attractor_server.storage.backends.base import BUSY_MS, Fault, View
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.backends.sqlite_copy import copy
from attractor_server.storage.backends.sqlite_files import lock_folder, network_file_system
from attractor_server.storage.findings import Finding, examine_folder

_SCHEME: Final = "sqlite:"


def uri_of(folder: Path) -> str:
    """Return the address of the store in a folder."""
    return f"{_SCHEME}{folder}"


def folder_of(uri: str) -> Path:
    """Return the folder that a store with such an address is in."""
    return Path(uri.removeprefix(_SCHEME))


class SqliteBackend:
    """One SQLite file in a folder of the machine. See `Backend`."""

    def label(self, uri: str) -> str:
        """Return the folder.

        Raises:
            SettingsError: its path is relative, which other processes would take for another folder.
        """
        if not folder_of(uri).is_absolute():
            raise SettingsError(f"backend_store_uri: saw {uri!r}; expected an absolute path, {_SCHEME}/FOLDER")
        return str(folder_of(uri))

    def open(self, uri: str, *, busy_ms: int = BUSY_MS) -> SqliteDatabase:
        """Open the file, made if there is none."""
        return SqliteDatabase(folder_of(uri), busy_ms=busy_ms)

    def inspect(self, uri: str) -> AbstractContextManager[View]:
        """Open the file to be read alone, with what SQLite itself finds wrong in it."""
        return sqlite_inspection.inspect(folder_of(uri))

    def lock(self, uri: str) -> AbstractContextManager[None]:
        """Keep other servers out of the folder."""
        return lock_folder(folder_of(uri))

    def examine(self, uri: str) -> Iterator[Finding]:
        """Yield what is said of the folder, of its file system, and of the server that has it."""
        folder = folder_of(uri)
        yield examine_folder("data folder", folder)
        if kind := network_file_system(folder):
            yield Finding("wrong", "file system", f"{folder} is on {kind}: name a local disk, or --backend-store-uri")
        else:
            yield Finding("ok", "file system", "local")
        yield _examine_lock(folder)

    def copy(self, uri: str, target: Path, artifacts: Artifacts | None) -> Sequence[Fault]:
        """Copy the file, and what it has in an artifact store, while servers write to it."""
        return copy(folder_of(uri), target, artifacts)


def _examine_lock(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("ok", "memories", "none yet")
    try:
        with lock_folder(folder):
            return Finding("ok", "memories", f"no server has {folder} open; `attractor verify` reads them")
    except ServerError as error:
        return Finding("warning", "memories", error.message)
