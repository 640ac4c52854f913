"""What the engine asks of a backend store. No torch here."""

from collections.abc import Sequence
from typing import Protocol

from attractor_server.storage.records import Change, Snapshot, StoredMemory, StoredPage


class Keeper(Protocol):
    """A backend store, as the engine's thread uses it. Each method returns when what it did is on the disk.

    They raise ServerError where the store cannot be used, or is damaged; then nothing was changed.
    """

    def find(self, name: str) -> StoredMemory | None:
        """The memory of that name, or None."""

    def page(self, memory: int, number: int, *, all_entries: bool = False) -> StoredPage:
        """What the weights of that page follow from; with `all_entries` also the patterns that are in its image.

        Of a page whose image is damaged all its entries, and no image; without all of them it is damaged.
        """

    def commit(self, changes: Sequence[Change]) -> None:
        """All these changes or none."""

    def delete(self, memory: int) -> None:
        """Forgets a memory."""

    def purge(self) -> None:
        """Leaves no byte of what changes took away."""

    def fork(self, memory: int, name: str, *, tag: str = "") -> StoredMemory:
        """A memory of that name with all that the first one has, or had at a snapshot."""

    def snapshot(self, memory: int, tag: str) -> Snapshot:
        """Keeps the memory as it is now under a tag."""

    def snapshots(self, memory: int) -> Sequence[Snapshot]:
        """Of a memory, the oldest first."""

    def restore(self, memory: int, tag: str) -> tuple[int, int]:
        """Makes the memory what it was at a snapshot; its version and patterns."""

    def forget_snapshot(self, memory: int, tag: str) -> None:
        """Forgets a snapshot."""
