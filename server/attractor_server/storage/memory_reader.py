"""Memories in the backend store, as they are read: by name, page by page, and with their snapshots."""

import logging
import time
from collections.abc import Mapping, Sequence

from attractor_server.errors import StoreDamaged
from attractor_server.memories.items import ItemPart, ItemPlace, ItemQuery, KeptItem
from attractor_server.memories.records import Call, Done, Entry, Snapshot, StoredMemory, StoredPage, WriteAck
from attractor_server.recorder import SILENT, Recorder
from attractor_server.storage import item_reader, word_reader
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.database import Store
from attractor_server.storage.offload import load_image
from attractor_server.storage.tables import calls as call_rows
from attractor_server.storage.tables import items as item_rows
from attractor_server.storage.tables import memories as memory_rows
from attractor_server.storage.tables import pages as page_rows
from attractor_server.storage.tables import snapshots as snapshot_rows

logger = logging.getLogger(__name__)


class SqlMemoryReader:
    """The memories of a backend store, as anybody may read them, whichever shard owns them. Thread-safe.

    Its methods raise StoreFailed where the store cannot be used now, StoreDamaged where a checksum is wrong.
    """

    def __init__(self, store: Store, *, artifacts: Artifacts | None = None, recorder: Recorder = SILENT) -> None:
        """Read large images from `artifacts`, if there are any."""
        self._store = store
        self._artifacts = artifacts
        self._recorder = recorder

    def close(self) -> None:
        """Leave the store."""
        self._store.close()

    def find(self, name: str) -> StoredMemory | None:
        """Return the memory of that name, or None."""
        return self.find_all([name])[0]

    def find_all(self, names: Sequence[str]) -> Sequence[StoredMemory | None]:
        """Return the memories of those names, None where there is none."""
        with self._store.read() as cursor:
            return [memory_rows.find(cursor, name) for name in names]

    def list_by_name(self, *, prefix: str, after: str, size: int, flat: bool = False) -> Sequence[StoredMemory]:
        """Return up to `size` memories with that prefix and names beyond `after`, by name; without their write acks.

        Where `flat`, of those whose names have no slash.
        """
        with self._store.read() as cursor:
            return memory_rows.list_by_name(cursor, prefix=prefix, after=after, size=size, flat=flat)

    def models(self) -> Sequence[tuple[str, str]]:
        """Return names and digests of the models that memories are of."""
        with self._store.read() as cursor:
            return list(memory_rows.list_models(cursor))

    def find_expired(self, *, size: int) -> Sequence[str]:
        """Return the names of up to `size` memories whose time is over."""
        with self._store.read() as cursor:
            return memory_rows.find_expired(cursor, now_s=time.time(), size=size)

    def find_call(self, call: Call) -> Done | None:
        """Return what that call has done; None if it is new.

        Raises:
            NumberReused: another call had that number.
            SequenceForgotten: the number is older than those that are remembered of its client.
        """
        with self._store.read() as cursor:
            return call_rows.find(cursor, call)

    def find_acks(self, memory: int, client: str) -> Sequence[WriteAck]:
        """Return the answers to that client's stores and erases that are remembered, in the order of versions."""
        with self._store.read() as cursor:
            return call_rows.load_acks(cursor, memory, [client])

    def page(self, memory: int, number: int, *, all_entries: bool = False) -> StoredPage:
        """Return what that page's weights follow from; with `all_entries` also the patterns in its image.

        Where the image is damaged, and all patterns are kept, these alone.
        """
        try:
            with self._store.read() as cursor:
                page = page_rows.load(cursor, memory, number, all_entries=all_entries)
            return load_image(page, self._artifacts)
        except StoreDamaged as damage:
            return self._without_image(memory, number, damage)

    def snapshots(self, memory: int, *, after: int = 0, size: int = -1) -> Sequence[Snapshot]:
        """Return snapshots of a memory, the oldest first, with numbers beyond `after`; up to `size`, if given."""
        size = size if size >= 0 else (1 << 63) - 1
        with self._store.read() as cursor:
            return snapshot_rows.list_all(cursor, memory, after=after, size=size)

    def find_snapshot(self, memory: int, tag: str) -> Snapshot | None:
        """Return the snapshot of a memory with that tag, if there is one."""
        with self._store.read() as cursor:
            return snapshot_rows.find(cursor, memory, tag)

    def load_snapshot(self, name: str, tag: str) -> StoredMemory:
        """Return a snapshot as a memory of its own, with its pages, which `page` reads by its number.

        Raises:
            SnapshotNotFound: there is none.
        """
        with self._store.read() as cursor:
            return snapshot_rows.load(cursor, name, tag)

    def find_items(self, memory: int, ids: Sequence[str]) -> Sequence[KeptItem]:
        """Return the items of a memory with these ids, in the order of storing."""
        return item_reader.find_items(self._store, memory, ids)

    def find_places(self, memory: int, ids: Sequence[str]) -> Sequence[tuple[str, ItemPlace]]:
        """Return the places of a memory's items with these ids, in the order of storing."""
        with self._store.read() as cursor:
            return item_rows.find(cursor, memory, ids)

    def find_expired_pages(self, memory: int, now_s: float) -> Sequence[int]:
        """Return the numbers of a memory's pages that have items whose time is over."""
        with self._store.read() as cursor:
            return item_rows.find_expired_pages(cursor, memory, now_s)

    def find_with_expired(self, *, size: int) -> Sequence[str]:
        """Return the names of up to `size` memories that have items whose time is over."""
        with self._store.read() as cursor:
            return item_rows.find_with_expired(cursor, now_s=time.time(), size=size)

    def find_entries(self, memory: int, number: int, *, backwards: bool = False) -> tuple[int, Sequence[Entry]] | None:
        """Return the first page with that number or a higher one, or going backwards a lower one, and its entries."""
        with self._store.read() as cursor:
            return page_rows.next_entries(cursor, memory, number, backwards=backwards)

    def list_items(self, memory: int, query: ItemQuery, after: ItemPlace | None) -> ItemPart:
        """Return items that the query asks for behind that place; few, where more would take long."""
        return item_reader.list_items(self._store, memory, query, after)

    def count_items(self, memory: int) -> int:
        """Return how many patterns and items without one a memory has."""
        with self._store.read() as cursor:
            return page_rows.count_all(cursor, memory)

    def grade_texts(self, memory: int, words: str) -> Mapping[ItemPlace, float]:
        """Return how well the texts of a memory fit some words, of those that have any of them."""
        return word_reader.grade(self._store, memory, words)

    def find_at(self, memory: int, places: Sequence[ItemPlace]) -> Sequence[KeptItem]:
        """Return the items of a memory at these places, as far as they are there, in the order of storing."""
        return word_reader.find_at(self._store, memory, places)

    def _without_image(self, memory: int, number: int, damage: StoreDamaged) -> StoredPage:
        self._recorder.record_damaged_image()
        with self._store.read() as cursor:
            entries, names = page_rows.load_entries(cursor, memory, number), memory_rows.names_of(cursor, [memory])
        if not entries:
            raise damage
        logger.warning(
            "memory %r, page %d is written anew from its patterns whenever it is needed, until the memory is rebuilt: "
            "%s",
            *names.values(),
            number,
            damage.message,
        )
        return StoredPage(image=None, entries=entries)
