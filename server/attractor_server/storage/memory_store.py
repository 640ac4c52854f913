"""Memories in the backend store: created, changed in groups, copied, and deleted."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import perf_counter

from attractor_server.errors import QuotaExceeded
from attractor_server.memories.records import Call, Change, Done, NewMemory, Snapshot, StoredMemory
from attractor_server.memories.store import LEFTOVER_PAGES
from attractor_server.recorder import SILENT, Recorder
from attractor_server.storage.accounts import Accounts
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.changes import Changes
from attractor_server.storage.claims import Claims, claim_all
from attractor_server.storage.database import Cursor, Store
from attractor_server.storage.memory_reader import SqlMemoryReader
from attractor_server.storage.offload import offload_images, sweep
from attractor_server.storage.secret import secret_of
from attractor_server.storage.tables import calls as call_rows
from attractor_server.storage.tables import imports as import_rows
from attractor_server.storage.tables import memories as memory_rows
from attractor_server.storage.tables import pages as page_rows
from attractor_server.storage.tables import snapshots as snapshot_rows
from attractor_server.storage.tables.usage import Usage

PARTS_LIMIT = 64
"""Pages and snapshots that are deleted together"""

PAGES_LIMIT = 16
"""Pages of one memory, among them"""


class SqlMemoryStore(SqlMemoryReader):
    """The memories of a backend store, to be changed by the shard that owns them. Thread-safe.

    Every method that changes something returns when it is on the disk, and raises OwnerChanged where another shard has
    claimed one of the memories since.
    """

    def __init__(
        self,
        store: Store,
        ownership: Claims | None = None,
        *,
        artifacts: Artifacts | None = None,
        recorder: Recorder = SILENT,
    ) -> None:
        """Change what the `ownership` claims; without one everything, which no older store object can change any more.

        Large images go to `artifacts`, if there are any.
        """
        super().__init__(store, artifacts=artifacts, recorder=recorder)
        self.ownership = ownership or claim_all(store, "shard-0")
        self.accounts = Accounts(store.claiming)
        """Of what namespaces keep that have a quota"""
        self._change = Changes(store, self.ownership, self.accounts, recorder).run

    def create(self, memories: Sequence[NewMemory]) -> Sequence[StoredMemory]:
        """Return the memories of those names, made now where there is none."""
        now_s = time.time()
        with self._change(names=[memory.name for memory in memories]) as cursor:
            for memory in memories:
                memory_rows.make(cursor, memory, now_s=now_s)
            found = [memory_rows.find(cursor, memory.name) for memory in memories]
        return [memory for memory in found if memory is not None]

    def create_each(self, memories: Sequence[NewMemory]) -> Sequence[StoredMemory | QuotaExceeded]:
        """Return the memories of those names; in the place of each that its namespace may not have, why."""
        try:
            return self.create(memories)
        except QuotaExceeded as error:
            if len(memories) == 1:
                return [error]
            half = len(memories) // 2
            return [*self.create_each(memories[:half]), *self.create_each(memories[half:])]

    def secret(self) -> str:
        """Return the secret that only those know who can read the store."""
        return secret_of(self._store)

    def delete(self, memory: int, *, call: Call | None = None) -> None:
        """Forget a memory and its snapshots: no byte that only they had stays in the files.

        Nothing is done where the call is a repeat: it deleted one of that name before.
        """
        if self.begin_delete(memory, call=call):
            self._forget_in_parts(memory)

    def begin_delete(self, memory: int, *, call: Call | None = None) -> bool:
        """Forget a memory; return True if it is large, out of reach from now on, and to be shortened.

        False, with nothing done, where the call is a repeat: it deleted one of that name before.
        """
        with self._change(memories=[memory], reserved=True) as cursor:
            if call_rows.find(cursor, call) is not None:
                return False
            more = self._leave(cursor, memory, now_s=time.time())
            call_rows.note(cursor, call, Done(0, 0), now_s=time.time())
        if not more:
            self.purge()
        return more

    def commit(self, changes: Sequence[Change]) -> None:
        """Apply all these changes or none. Changes of a deleted memory are dropped."""
        started_s = perf_counter()
        now_s, changes = time.time(), offload_images(changes, self._artifacts)
        reserved = all(change.erases for change in changes)
        places = [(one.memory, number) for one in changes for number in (*one.pages, *one.emptied, *one.dropped)]
        changed = [change.memory for change in changes]
        with self._change(memories=changed, pages=dict.fromkeys(places), reserved=reserved) as cursor:
            for apart in memory_rows.split_by_memory(changes):
                there = memory_rows.update_counts(cursor, apart, now_s=now_s)
                page_rows.apply(cursor, there)
                call_rows.save_acks(cursor, there)
                for change in there:
                    call_rows.note(cursor, change.call, Done(change.version, change.patterns), now_s=now_s)
        self._recorder.record_commit(len(changes), perf_counter() - started_s)
        if any(change.dropped or change.emptied for change in changes):
            sweep(self._store, self._artifacts)

    def may_have_room(self, name: str, *, items: int, size_bytes: int) -> bool:
        """Return whether the namespace of that memory may keep so much more, as far as is known without a look."""
        return self.accounts.may_have_room(name, Usage(items=items, bytes=size_bytes))

    def purge(self) -> None:
        """Leave no byte of what changes took away in the files, once no other shard reads the log."""
        self._store.purge()
        sweep(self._store, self._artifacts)

    def fork(self, memory: int, name: str, *, tag: str = "", call: Call | None = None) -> StoredMemory:
        """Make a memory with all that the first one has, or had at a snapshot; pages are shared until written.

        One that was made so before, and not written since, is returned as it is.

        Raises:
            NameTaken: by another memory.
            SnapshotNotFound: there is no snapshot with that tag.
        """
        with self._change(memories=[memory], made=name) as cursor:
            made = snapshot_rows.fork(cursor, memory, name, tag=tag, now_s=time.time())
            call_rows.note(cursor, call, Done(made.version, made.patterns), now_s=time.time())
        return made

    def snapshot(self, memory: int, tag: str, *, call: Call | None = None) -> Snapshot:
        """Keep the memory as it is now under a tag; one of that tag and version is returned as it is.

        Raises:
            TagTaken: by another version.
        """
        with self._change(memories=[memory]) as cursor:
            made = snapshot_rows.snapshot(cursor, memory, tag, now_s=time.time())
            call_rows.note(cursor, call, Done(made.version, made.patterns), now_s=time.time())
        return made

    def restore(self, memory: int, tag: str, *, call: Call | None = None) -> Done:
        """Make the memory what it was at a snapshot; the version has grown by one.

        Raises:
            SnapshotNotFound: there is no snapshot with that tag.
        """
        restored, old = self.begin_restore(memory, tag, call=call)
        if old:
            self._forget_in_parts(old)
        return restored

    def begin_restore(self, memory: int, tag: str, *, call: Call | None = None) -> tuple[Done, int]:
        """Make the memory what it was at a snapshot; return the number of a draft that has many old pages, or 0.

        The draft is out of reach, and to be shortened.

        Raises:
            SnapshotNotFound: there is no snapshot with that tag.
        """
        now_s = time.time()
        with self._change(memories=[memory]) as cursor:
            restored, old = snapshot_rows.restore(cursor, memory, tag, now_s=now_s, pages=PAGES_LIMIT)
            if old:
                import_rows.abandon(cursor, old, now_s=now_s)
            call_rows.note(cursor, call, restored, now_s=now_s)
        sweep(self._store, self._artifacts)
        return restored, old

    def forget_snapshot(self, memory: int, tag: str, *, call: Call | None = None) -> None:
        """Forget a snapshot.

        Raises:
            SnapshotNotFound: there is no snapshot with that tag.
        """
        if snapshot := self.begin_forget(memory, tag, call=call):
            self._forget_in_parts(snapshot)

    def begin_forget(self, memory: int, tag: str, *, call: Call | None = None) -> int:
        """Forget a snapshot; return its number if it is large, out of reach from now on, and to be shortened, or 0.

        Raises:
            SnapshotNotFound: there is no snapshot with that tag.
        """
        now_s = time.time()
        with self._change(memories=[memory], reserved=True) as cursor:
            snapshot = snapshot_rows.snapshot_id(cursor, memory, tag)
            more = self._leave(cursor, snapshot, now_s=now_s)
            call_rows.note(cursor, call, Done(0, 0), now_s=now_s)
        if not more:
            self.purge()
        return snapshot if more else 0

    def forget_hidden(self, name: str, tag: str) -> None:
        """Forget a snapshot of that memory which was taken to be read once, if there is one."""
        with self._store.read() as cursor:
            memory = snapshot_rows.find_id(cursor, name, tag)
        if memory is not None:
            self._forget_in_parts(memory)

    def forget_leftovers(self) -> Iterator[None]:
        """Forget what exports, deletions and changes have left whose server died; stop after each part of it."""
        while True:
            now_s = time.time()
            with self._store.read() as cursor:
                found = [
                    *snapshot_rows.leftovers(cursor, before_s=now_s - snapshot_rows.HIDDEN_FOR_S),
                    *import_rows.leftovers(cursor, now_s=now_s),
                ]
            if not found:
                return
            for memory in found:
                while self.shorten(memory, pages=LEFTOVER_PAGES):
                    yield
                self.forget_unreached(memory)
                yield

    def forget_unreached(self, memory: int) -> None:
        """Forget a snapshot that was taken to be read once, or what came of an import: they are no shard's."""
        with self._change(reserved=True) as cursor:
            snapshot_rows.delete(cursor, memory)
        self._store.purge()

    def begin_import(self, memory: StoredMemory) -> int:
        """Begin a draft: a memory like that one, which nobody reaches and which has no pages yet. Return its number."""
        with self._change() as cursor:
            if not memory.id:
                self.accounts.expect(cursor, memory.name, Usage(memories=1, items=memory.patterns))
            return import_rows.begin(cursor, memory, now_s=time.time())

    def add_pages(self, change: Change) -> None:
        """Give pages to a draft."""
        changes = offload_images([change], self._artifacts)
        with self._change() as cursor:
            import_rows.advance(cursor, change.memory, change.version)
            page_rows.apply(cursor, changes)

    def end_import(self, memory: int, name: str, *, call: Call | None = None) -> StoredMemory:
        """Give a draft its name, by which it is reached; in a repeat, return the memory that the call made before.

        Raises:
            NameTaken: by another memory.
        """
        with self._change(made=name) as cursor:
            if call_rows.find(cursor, call) is not None and (before := memory_rows.find(cursor, name)) is not None:
                import_rows.abandon(cursor, memory, now_s=time.time())
                return before
            made = import_rows.end(cursor, memory, name)
            call_rows.note(cursor, call, Done(made.version, made.patterns), now_s=time.time())
        return made

    def end_rebuild(self, draft: int, change: Change) -> None:
        """Apply the change, and give its memory the pages of the draft, which was made as an import is.

        The old ones are the draft's then, which nobody reaches, to be forgotten.
        """
        now_s = time.time()
        with self._change(memories=[change.memory]) as cursor:
            import_rows.exchange(cursor, change.memory, draft)
            import_rows.abandon(cursor, draft, now_s=now_s)
            memory_rows.update_counts(cursor, [change], now_s=now_s)
            call_rows.note(cursor, change.call, Done(change.version, change.patterns), now_s=now_s)

    def end_change(self, draft: int, change: Change) -> None:
        """Apply the change, and give its memory the pages of the draft in the place of those of these numbers.

        What was in their place, and what the change drops, is the draft's then, which nobody reaches, to be forgotten.
        """
        now_s = time.time()
        (kept,) = offload_images([replace(change, dropped=())], self._artifacts)
        with self._change(memories=[change.memory]) as cursor:
            if there := memory_rows.update_counts(cursor, [kept], now_s=now_s):
                page_rows.apply(cursor, there)
                import_rows.advance(cursor, draft, change.version)
                import_rows.give(cursor, change.memory, draft, dropped=change.dropped)
                call_rows.save_acks(cursor, there)
                call_rows.note(cursor, change.call, Done(change.version, change.patterns), now_s=now_s)
            import_rows.abandon(cursor, draft, now_s=now_s)

    def touch_items(self, memory: int, ids: Sequence[str], expires_s: float | None) -> Sequence[int]:
        """Give the items with these ids another end, or none; return the pages that each of them is in."""
        with self._change(memories=[memory], counted=False) as cursor:
            memory_rows.renew(cursor, memory, now_s=time.time())
            return page_rows.touch(cursor, memory, ids, expires_s)

    def abandon(self, draft: int) -> None:
        """Leave a draft to be forgotten by and by."""
        with self._change() as cursor:
            import_rows.abandon(cursor, draft, now_s=time.time())

    def shorten(self, memory: int, *, pages: int) -> bool:
        """Take so many pages, or snapshots with few, from a memory that nobody reaches; return whether it has more."""
        with self._change(reserved=True) as cursor:
            more = snapshot_rows.shorten(cursor, memory, 1 if self._store.is_short() else pages)
        sweep(self._store, self._artifacts)
        return more

    def _leave(self, cursor: Cursor, memory: int, *, now_s: float) -> bool:
        """Delete a memory, or put a large one out of reach; return whether it is large."""
        parts = 1 if self._store.is_short() else PARTS_LIMIT
        more = snapshot_rows.is_large(cursor, memory, parts=parts, pages=min(parts, PAGES_LIMIT))
        if more:
            import_rows.abandon(cursor, memory, now_s=now_s)
        else:
            snapshot_rows.delete(cursor, memory)
        return more

    def _forget_in_parts(self, memory: int) -> None:
        """Forget a memory that nobody reaches; others have the store between its parts."""
        while self.shorten(memory, pages=PAGES_LIMIT):
            pass
        self.forget_unreached(memory)
