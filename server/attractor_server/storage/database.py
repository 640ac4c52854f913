"""Protocols of the backend store's databases, whose cursors take the same statements.

Statements are in what SQLite and PostgreSQL both speak, with `?` where a value goes.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

FAILED: Final = "the store failed and changed nothing; try again in a moment"

FULL: Final = "the store failed and changed nothing: its disk is full; make room on it, or delete memories"

DAMAGED: Final = "the store is damaged; restore it from a backup"
"""Messages for clients, without the place of the store and the words of its database"""

Value: TypeAlias = int | float | str | bytes | None

Row: TypeAlias = Sequence[Value]

WAITING = "/* waiting */"
"""Ends a SELECT that waits for others who change these rows; a comment to SQLite, which has one writer at a time"""


class Cursor(Protocol):
    """Runs statements in the transaction that is open."""

    def execute(self, statement: str, values: Row = ..., /) -> "Cursor":
        """Run a statement; its rows are to be fetched."""

    def executemany(self, statement: str, rows: Sequence[Row], /) -> object:
        """Run a statement for each row of values."""

    def fetchone(self) -> Any:  # noqa: ANN401 - columns of any types
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class Store(Protocol):
    """A database that has the tables of memories."""

    @property
    def locking(self) -> str:
        """Ends a SELECT in a transaction whose rows nobody else may change before that has ended."""

    @property
    def claiming(self) -> str:
        """Ends a SELECT in a transaction that will change these rows, and waits for others that would."""

    @property
    def finding_words(self) -> str:
        """SELECT of where the texts of a memory have a word, by that word as the index has it, and the memory."""

    def transaction(self, *, reserved: bool = False) -> AbstractContextManager[Cursor]:
        """Apply everything in the block, or nothing; it is on the disk when the block has ended.

        One that is `reserved` makes room, or is needed before any is made: it succeeds on a disk that is full for
        others, where the database can see to that.
        """

    def is_short(self) -> bool:
        """Return whether its disk is so full that no more should be deleted in one transaction than must be."""

    def read(self) -> AbstractContextManager[Cursor]:
        """Give a cursor for queries, as one view of the store."""

    def purge(self) -> None:
        """Leave no byte of what was deleted in the files, as far as the database can, and nobody else is busy."""

    def close(self) -> None:
        """Leave the store."""


def several(rows: Sequence[Row]) -> tuple[str, Row]:
    """Return the text behind VALUES for these rows, and the values.

    The last is repeated up to a power of two, so that there are few different statements.
    """
    padded = [*rows, *[rows[-1]] * ((1 << (len(rows) - 1).bit_length()) - len(rows))]
    row = f"({', '.join('?' * len(rows[0]))})"
    return ", ".join([row] * len(padded)), [value for one in padded for value in one]


def number(cursor: Cursor) -> int:
    """Return the single number that a statement yields."""
    return int(cursor.fetchall()[0][0])
