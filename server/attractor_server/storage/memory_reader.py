"""Memories in the backend store, as they are read: by name, page by page, and with their snapshots."""

import logging
import time
from collections.abc import Sequence

from attractor_server.errors import StoreDamaged
from attractor_server.memories.records import Call, Done, Snapshot, StoredMemory, StoredPage, WriteAck
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.database import Store
from attractor_server.storage.offload import brought
from attractor_server.storage.tables import calls as call_rows
from attractor_server.storage.tables import memories as memory_rows
from attractor_server.storage.tables import pages as page_rows
from attractor_server.storage.tables import snapshots as snapshot_rows

logger = logging.getLogger(__name__)


class SqlMemoryReader:
    """The memories of a backend store, as anybody may read them, whichever shard owns them. Thread-safe.

    Its methods raise StoreFailed where the store cannot be used now, StoreDamaged where a checksum is wrong.
    """

    def __init__(self, store: Store, *, artifacts: Artifacts | None = None) -> None:
        """Reads large images from `artifacts`, if there are any."""
        self._store = store
        self._artifacts = artifacts

    def close(self) -> None:
        """Leave the store."""
        self._store.close()

    def find(self, name: str) -> StoredMemory | None:
        """The memory of that name, or None."""
        return self.find_all([name])[0]

    def find_all(self, names: Sequence[str]) -> Sequence[StoredMemory | None]:
        """The memories of those names, None where there is none."""
        with self._store.reading() as cursor:
            return [memory_rows.found(cursor, name) for name in names]

    def listed(self, *, prefix: str, after: str, size: int) -> Sequence[StoredMemory]:
        """Up to `size` memories with that prefix and names beyond `after`, by name; without what clients were told."""
        with self._store.reading() as cursor:
            return memory_rows.listed(cursor, prefix=prefix, after=after, size=size)

    def models(self) -> Sequence[tuple[str, str]]:
        """Names and digests of the models that memories are of."""
        with self._store.reading() as cursor:
            return list(memory_rows.models(cursor))

    def expired(self, *, size: int) -> Sequence[str]:
        """Names of up to `size` memories whose time is over."""
        with self._store.reading() as cursor:
            return memory_rows.expired(cursor, now_s=time.time(), size=size)

    def done(self, call: Call) -> Done | None:
        """What that call has done; None if it is new.

        Raises:
            NumberReused: another call had that number.
            SequenceForgotten: the number is older than those that are remembered of its client.
        """
        with self._store.reading() as cursor:
            return call_rows.found(cursor, call)

    def told(self, memory: int, client: str) -> Sequence[WriteAck]:
        """The answers to that client's stores and erases that are remembered, in the order of versions."""
        with self._store.reading() as cursor:
            return memory_rows.told(cursor, memory, client)

    def page(self, memory: int, number: int, *, all_entries: bool = False) -> StoredPage:
        """What that page's weights follow from; with `all_entries` also the patterns that are in its image already.

        Where the image is damaged, and all patterns are kept, these alone.
        """
        try:
            with self._store.reading() as cursor:
                page = page_rows.load(cursor, memory, number, all_entries=all_entries)
            return brought(page, self._artifacts)
        except StoreDamaged as damage:
            return self._without_image(memory, number, damage)

    def snapshots(self, memory: int, *, after: int = 0, size: int = -1) -> Sequence[Snapshot]:
        """Of a memory, the oldest first, from the one behind number `after`; no more than `size`, if that is given."""
        size = size if size >= 0 else (1 << 63) - 1
        with self._store.reading() as cursor:
            return snapshot_rows.snapshots(cursor, memory, after=after, size=size)

    def tagged(self, memory: int, tag: str) -> Snapshot | None:
        """The snapshot of a memory with that tag, if there is one."""
        with self._store.reading() as cursor:
            return snapshot_rows.tagged(cursor, memory, tag)

    def kept(self, name: str, tag: str) -> StoredMemory:
        """The snapshot of a memory with its pages, which `page` reads and `delete` forgets by its own number.

        Raises:
            SnapshotNotFound: there is none.
        """
        with self._store.reading() as cursor:
            return snapshot_rows.kept(cursor, name, tag)

    def _without_image(self, memory: int, number: int, damage: StoreDamaged) -> StoredPage:
        with self._store.reading() as cursor:
            entries, names = page_rows.load_entries(cursor, memory, number), memory_rows.names_of(cursor, [memory])
        if not entries:
            raise damage
        logger.warning(
            "memory %r, page %d is written anew from its patterns whenever it is needed, until the memory is rebuilt: "
            "%s",
            *names,
            number,
            damage.message,
        )
        return StoredPage(image=None, entries=entries)
