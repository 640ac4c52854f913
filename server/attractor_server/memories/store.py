"""The backend store, as the rest of the server knows it."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from attractor_server.memories.records import Call, Change, Done, Snapshot, StoredMemory, StoredPage, WriteAck

LEFTOVER_PAGES = 4
"""Pages taken at a time from a memory that nobody reaches: others have the store in between"""


class MemoryStore(Protocol):
    """A backend store. Its methods block; each returns when what it did is on the disk.

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

    def told(self, memory: int, client: str) -> Sequence[WriteAck]:
        """The answers to that client's stores and erases that are remembered, in the order of versions."""

    def done(self, call: Call) -> Done | None:
        """What that call has done; None if it is new. Raises NumberReused where another call had its number."""

    def begin_delete(self, memory: int, *, call: Call | None = None) -> bool:
        """Forgets a memory, or where it is large has nobody reach it. Whether so: then it is to be shortened.

        False where the call deleted one before, and does nothing now.
        """

    def purge(self) -> None:
        """Leaves no byte of what changes took away."""

    def fork(self, memory: int, name: str, *, tag: str = "", call: Call | None = None) -> StoredMemory:
        """A memory of that name with all that the first one has, or had at a snapshot."""

    def snapshot(self, memory: int, tag: str, *, call: Call | None = None) -> Snapshot:
        """Keeps the memory as it is now under a tag."""

    def tagged(self, memory: int, tag: str) -> Snapshot | None:
        """The snapshot with that tag, if there is one."""

    def snapshots(self, memory: int, *, after: int = 0, size: int = -1) -> Sequence[Snapshot]:
        """The snapshots of a memory, the oldest first, from the one behind number `after`; no more than `size`."""

    def kept(self, name: str, tag: str) -> StoredMemory:
        """The snapshot of a memory with its pages, which `page` reads by its own number."""

    def restore(self, memory: int, tag: str, *, call: Call | None = None) -> Done:
        """Makes the memory what it was at a snapshot."""

    def begin_import(self, memory: StoredMemory) -> int:
        """The number of a memory like that one, which nobody reaches and which has no pages yet."""

    def add_imported(self, change: Change) -> None:
        """Gives pages to such a memory."""

    def end_import(self, memory: int, name: str, *, call: Call | None = None) -> StoredMemory:
        """Makes such a memory be reached by that name; in a repeat, the one that the call made before.

        Raises NameTaken where another memory has the name.
        """

    def end_rebuild(self, draft: int, change: Change) -> None:
        """Applies the change, and gives its memory the pages of such a one, which has the old ones then."""

    def end_change(self, draft: int, change: Change) -> None:
        """Applies the change, and gives its memory the pages of such a one, which has the old ones then."""

    def abandon(self, draft: int) -> None:
        """Leaves such a one to be forgotten by and by."""

    def shorten(self, memory: int, *, pages: int) -> bool:
        """Takes so many pages, or snapshots with few, from a memory that nobody reaches; whether it has more."""

    def forget_unreached(self, memory: int) -> None:
        """Forgets a memory that nobody reaches."""

    def forget_snapshot(self, memory: int, tag: str, *, call: Call | None = None) -> None:
        """Forgets a snapshot."""

    def forget_hidden(self, name: str, tag: str) -> None:
        """Forgets a snapshot of that memory which was taken to be read once, if there is one."""

    def forget_leftovers(self) -> Iterator[None]:
        """Forgets what exports, deletions and changes have left whose server died; stops after each part of it."""

    def secret(self) -> str:
        """What only those know who can read the store."""
