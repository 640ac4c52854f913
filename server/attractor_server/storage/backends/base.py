"""Backends: kinds of databases that memories are kept in, each chosen by the scheme of its addresses."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.database import Cursor, Store
from attractor_server.storage.findings import Finding

BUSY_MS = 10_000
"""How long a transaction waits for that of another shard"""


@dataclass(frozen=True)
class Fault:
    """Something in a store that is not as it was written."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class View:
    """A store at one moment."""

    cursor: Cursor
    name: str
    faults: Sequence[Fault]
    """Those of the store as a whole"""


class Backend(Protocol):
    """A kind of database. Each method takes the address of one, a URI that begins with the backend's scheme.

    Where the database cannot be used now they raise StoreFailed, where it is damaged, or of a newer format,
    StoreDamaged.
    """

    def label(self, uri: str) -> str:
        """Return the address as messages name it, without a password.

        Raises:
            SettingsError: it cannot be meant; the message repeats nothing that may be a password.
        """

    def open(self, uri: str, *, busy_ms: int = BUSY_MS) -> Store:
        """Open the store, made if there is none; a transaction waits for that of another shard for `busy_ms`."""

    def inspect(self, uri: str) -> AbstractContextManager[View]:
        """Open the store to be read alone, beside the server that has it, or without one.

        Raises:
            SettingsError: there is none.
        """

    def lock(self, uri: str) -> AbstractContextManager[None]:
        """Keep other servers out of the store until the end of the block, or of the process.

        Raises:
            SettingsError: another server has it.
        """

    def examine(self, uri: str) -> Iterator[Finding]:
        """Yield what `attractor doctor` says of the store; nothing is made."""

    def copy(self, uri: str, target: Path, artifacts: Artifacts | None) -> Sequence[Fault]:
        """Copy the store, as it is now, into the new folder `target`, as one that `--data-dir` names.

        Returns:
            What is damaged, and is copied as it is.

        Raises:
            SettingsError: something is in the target; or the database has a program of its own for copies, as the
                message says.
        """
