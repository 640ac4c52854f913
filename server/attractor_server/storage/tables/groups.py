"""Rows of groups of slots: the shard that owns each, and under which epoch."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from attractor_server.errors import StoreDamaged
from attractor_server.storage.database import Cursor
from attractor_server.storage.process import Incarnation


class GroupRow(NamedTuple):
    """A group of slots, with the shard that claimed it."""

    group: int
    owner: Incarnation | None
    epoch: int
    waits: bool
    """The owner lets the lease of one before it run out"""

    @property
    def is_free(self) -> bool:
        """Whether nobody has it, or its owner is known to have ended."""
        return self.owner is None or self.owner.is_over


def load_all(cursor: Cursor, locking: str = "") -> Sequence[GroupRow]:
    """Return all groups by number; `locking` ends the SELECT, as a store says.

    Raises:
        StoreDamaged: a row cannot be read.
    """
    rows: Sequence[Any] = cursor.execute(
        f"SELECT number, owner, epoch, waits FROM groups ORDER BY number{locking}"  # noqa: S608
    ).fetchall()
    return [_row(*row) for row in rows]


def load_epochs(cursor: Cursor, groups: Sequence[int], locking: str = "") -> Mapping[int, int]:
    """Return the epochs of groups by their numbers; `locking` ends the SELECT, as a store says."""
    if not groups:
        return {}
    marks = ", ".join("?" * len(groups))
    statement = f"SELECT number, epoch FROM groups WHERE number IN ({marks}) ORDER BY number{locking}"  # noqa: S608
    return dict(cursor.execute(statement, groups).fetchall())


def _row(group: object, owner: object, epoch: object, waits: object) -> GroupRow:
    with suppress(ValueError):
        match group, owner, epoch, waits:
            case int(), str(), int(), int():
                return GroupRow(group, Incarnation.of(owner) if owner else None, epoch, bool(waits))
    raise StoreDamaged(
        f"group {group} of slots has no owner and epoch that can be meant; restore the store from a backup"
    )
