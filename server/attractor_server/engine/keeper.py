"""What the engine asks of a backend store. No torch here."""

from collections.abc import Sequence
from typing import Protocol

from attractor_server.storage.records import Change, StoredMemory, StoredPage


class Keeper(Protocol):
    """A backend store, as the engine's thread uses it. Each method returns when what it did is on the disk.

    They raise ServerError where the store cannot be used, or is damaged; then nothing was changed.
    """

    def find(self, name: str) -> StoredMemory | None:
        """The memory of that name, or None."""

    def page(self, memory: int, number: int) -> StoredPage:
        """What the weights of that page follow from."""

    def commit(self, changes: Sequence[Change]) -> None:
        """All these changes or none."""

    def delete(self, memory: int) -> None:
        """Forgets a memory."""
