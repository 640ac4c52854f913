"""The backend store, as the rest of the server knows it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from attractor_server.memories.items import ItemPart, ItemPlace, ItemQuery, KeptItem
from attractor_server.memories.records import Call, Change, Done, Entry, Snapshot, StoredMemory, StoredPage, WriteAck

LEFTOVER_PAGES = 4
"""Pages taken at a time from a memory that nobody reaches: others have the store in between"""


class MemoryStore(Protocol):
    """A backend store. Its methods block; each returns when what it did is on the disk.

    They raise ServerError where the store cannot be used, or is damaged; then nothing was changed.
    """

    def find(self, name: str) -> StoredMemory | None:
        """Return the memory of that name, or None."""

    def page(self, memory: int, number: int, *, all_entries: bool = False) -> StoredPage:
        """Return what that page's weights follow from; with `all_entries` also the patterns that are in its image.

        Of a page whose image is damaged all its entries, and no image; without all of them it is damaged.
        """

    def commit(self, changes: Sequence[Change]) -> None:
        """Apply all these changes or none."""

    def may_have_room(self, name: str, *, items: int, size_bytes: int) -> bool:
        """Return whether the namespace of that memory may keep so much more, as far as is known without a look."""

    def find_acks(self, memory: int, client: str) -> Sequence[WriteAck]:
        """Return the answers to that client's stores and erases that are remembered, in the order of versions."""

    def find_call(self, call: Call) -> Done | None:
        """Return what that call has done; None if it is new.

        Raises:
            NumberReused: another call had its number.
        """

    def find_items(self, memory: int, ids: Sequence[str]) -> Sequence[KeptItem]:
        """Return the items of a memory with these ids, in the order of storing."""

    def find_places(self, memory: int, ids: Sequence[str]) -> Sequence[tuple[str, ItemPlace]]:
        """Return the places of a memory's items with these ids, in the order of storing."""

    def find_expired_pages(self, memory: int, now_s: float) -> Sequence[int]:
        """Return the numbers of a memory's pages that have items whose time is over."""

    def find_entries(self, memory: int, number: int, *, backwards: bool = False) -> tuple[int, Sequence[Entry]] | None:
        """Return the first page with that number or a higher one, or going backwards a lower one, and its entries."""

    def touch_items(self, memory: int, ids: Sequence[str], expires_s: float | None) -> Sequence[int]:
        """Give the items with these ids another end, or none; return the pages that each of them is in."""

    def list_items(self, memory: int, query: ItemQuery, after: ItemPlace | None) -> ItemPart:
        """Return items that the query asks for behind that place; few, where more would take long."""

    def count_items(self, memory: int) -> int:
        """Return how many patterns and items without one a memory has."""

    def grade_texts(self, memory: int, words: str) -> Mapping[ItemPlace, float]:
        """Return how well the texts of a memory fit some words, of those that have any of them."""

    def find_at(self, memory: int, places: Sequence[ItemPlace]) -> Sequence[KeptItem]:
        """Return the items of a memory at these places, as far as they are there, in the order of storing."""

    def begin_delete(self, memory: int, *, call: Call | None = None) -> bool:
        """Forget a memory; return True if it is large, out of reach from now on, and to be shortened.

        False where the call deleted one before, and does nothing now.
        """

    def purge(self) -> None:
        """Leave no byte of what changes took away."""

    def fork(self, memory: int, name: str, *, tag: str = "", call: Call | None = None) -> StoredMemory:
        """Make a memory of that name with all that the first one has, or had at a snapshot."""

    def snapshot(self, memory: int, tag: str, *, call: Call | None = None) -> Snapshot:
        """Keep the memory as it is now under a tag."""

    def find_snapshot(self, memory: int, tag: str) -> Snapshot | None:
        """Return the snapshot with that tag, if there is one."""

    def snapshots(self, memory: int, *, after: int = 0, size: int = -1) -> Sequence[Snapshot]:
        """Return snapshots of a memory, the oldest first, with numbers beyond `after`; no more than `size`."""

    def load_snapshot(self, name: str, tag: str) -> StoredMemory:
        """Return a snapshot as a memory of its own, with its pages, which `page` reads by its number."""

    def begin_restore(self, memory: int, tag: str, *, call: Call | None = None) -> tuple[Done, int]:
        """Make the memory what it was at a snapshot; return the number of a draft that has many old pages, or 0."""

    def begin_import(self, memory: StoredMemory) -> int:
        """Begin a draft: a memory like that one, which nobody reaches and which has no pages yet. Return its number."""

    def add_pages(self, change: Change) -> None:
        """Give pages to a draft."""

    def end_import(self, memory: int, name: str, *, call: Call | None = None) -> StoredMemory:
        """Give a draft its name, by which it is reached; in a repeat, return the memory that the call made before.

        Raises NameTaken where another memory has the name.
        """

    def end_rebuild(self, draft: int, change: Change) -> None:
        """Apply the change, and give its memory the pages of the draft, which has the old ones then."""

    def end_change(self, draft: int, change: Change) -> None:
        """Apply the change, and give its memory the pages of the draft, which has the old ones then."""

    def abandon(self, draft: int) -> None:
        """Leave a draft to be forgotten by and by."""

    def shorten(self, memory: int, *, pages: int) -> bool:
        """Take so many pages, or snapshots with few, from a memory that nobody reaches; return whether it has more."""

    def forget_unreached(self, memory: int) -> None:
        """Forget a memory that nobody reaches."""

    def begin_forget(self, memory: int, tag: str, *, call: Call | None = None) -> int:
        """Forget a snapshot; return its number if it is large, and to be shortened, or 0."""

    def forget_hidden(self, name: str, tag: str) -> None:
        """Forget a snapshot of that memory which was taken to be read once, if there is one."""

    def forget_leftovers(self) -> Iterator[None]:
        """Forget what exports, deletions and changes have left whose server died; stop after each part of it."""

    def secret(self) -> str:
        """Return the secret that only those know who can read the store."""
