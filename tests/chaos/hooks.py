"""What is changed inside a shard from outside, before it starts: no line of the server knows of it.

Each function is called in the shard's process. A name that the server has no more fails there, loudly.
"""

import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import apsw
import obstore

from attractor import _client
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.engine.engine import Engine
from attractor_server.engine.operations import persist
from attractor_server.engine.pages.bank import Bank
from attractor_server.memories.ledger import Ledger
from attractor_server.memories.records import Call, Change
from attractor_server.rpc import responses
from attractor_server.storage import artifacts, offload
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.claims import Claims, ClaimsView, monotonic_s
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.tables import contents as content_rows
from attractor_server.storage.tables import pages as page_rows

Point: TypeAlias = tuple[Any, str, Literal["before", "after"]]

POINTS: dict[str, Point] = {
    "before-commit": (page_rows, "apply", "after"),
    "after-commit": (SqliteDatabase, "_write_beacon", "before"),
    "after-publish": (Bank, "publish", "after"),
    "before-answer": (Engine, "run", "after"),
    "during-image": (content_rows, "_image_row", "after"),
    "during-delete": (SqliteDatabase, "purge", "before"),
    "before-release": (Claims, "release", "before"),
}
"""Where a shard can be made to crash: a function, and on which side of it"""
LEAVING_S = 0.01
"""That gRPC's threads have to send what was written; nothing else goes on"""


def crash(point: str, hits: int) -> None:
    """Ends the process at that point, when it comes there for the so many-th time."""
    owner, name, side = POINTS[point]
    plain = getattr(owner, name)
    left = hits

    def crashing(*args: object, **words: object) -> object:
        nonlocal left
        left -= 1
        if side == "before" and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(*args, **words)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, crashing)


def crash_during_delete() -> None:
    """Ends the process where a memory is deleted, before its bytes are folded out of the log; corrections fold, too."""
    plain = SqlMemoryStore.begin_delete

    def deleting(store: SqlMemoryStore, memory: int, *, call: Call | None = None) -> bool:
        crash("during-delete", 1)
        return plain(store, memory, call=call)

    SqlMemoryStore.begin_delete = deleting  # type: ignore[assignment, method-assign]


def crash_after_answer(hits: int, written: "Synchronized[int]") -> None:
    """Ends the process when so many frames with answers to stores have left; counts the answers in them."""
    plain = responses.pack_frames
    left = hits

    def pack_frames(
        items: Iterable[responses.PendingResponse], limit_bytes: int
    ) -> Iterator[tuple[pb.SessionResponse, Sequence[responses.PendingResponse]]]:
        nonlocal left
        for frame, answered in plain(items, limit_bytes):
            yield frame, answered
            if not frame.HasField("stored"):  # it has been written by now
                continue
            written.value += len(frame.stored.request_ids)
            left -= 1
            if not left:
                time.sleep(LEAVING_S)
                os.kill(os.getpid(), signal.SIGKILL)

    responses.pack_frames = pack_frames


def crash_with_claim() -> None:
    """Ends the process as soon as it has claimed anything."""
    plain = Claims.claim

    def claim(self: Claims, groups: Collection[int], *, seize: Collection[int] = ()) -> None:
        plain(self, groups, seize=seize)
        if self.held:
            os.kill(os.getpid(), signal.SIGKILL)

    Claims.claim = claim  # type: ignore[method-assign]


def step_clock(offset_s: "Synchronized[float]") -> None:
    """The wall clock is off by what stands there, from then on when it changes."""
    plain = time.time
    time.time = lambda: plain() + offset_s.value


def slow_disk(longest_s: float) -> None:
    """Every synchronisation of the store's files takes up to so much longer."""
    _intercept(lambda: time.sleep(random.uniform(0, longest_s)))


def watch_syncs(path: Path) -> None:
    """Writes a line for each commit that had nothing synchronised."""
    syncs = 0

    def count() -> None:
        nonlocal syncs
        syncs += 1

    _intercept(count)
    plain = SqlMemoryStore.commit

    def commit(self: SqlMemoryStore, changes: Sequence[Change]) -> None:
        before = syncs
        plain(self, changes)
        if syncs == before:
            with path.open("a") as file:
                file.write("a commit was told of that no synchronisation had gone before\n")

    SqlMemoryStore.commit = commit  # type: ignore[method-assign]


def images_outside() -> None:
    """Every image of a page goes to the artifact store."""
    assert offload.LARGE_BYTES > 0
    offload.LARGE_BYTES = 0


def images_outside_if(wanted: "Synchronized[int]") -> None:
    """The same where that is set when the shard starts."""
    if wanted.value:
        images_outside()


def failing_artifacts(failing: "Synchronized[int]") -> None:
    """Every image of a page goes to the artifact store, and while that is set it answers errors: half of them late."""
    images_outside()
    for name in ("put", "get", "head", "delete"):
        setattr(obstore, name, _failing(getattr(obstore, name), failing))


def _failing(plain: Callable[..., object], failing: "Synchronized[int]") -> Callable[..., object]:
    def call(*args: object, **words: object) -> object:
        late = random.random() < 0.5
        result = plain(*args, **words) if late or not failing.value else None
        if failing.value:
            raise OSError("it answers errors")
        return result

    return call


def fsync_off() -> None:
    """Commits no longer wait for the disk."""
    plain = SqliteDatabase._prepare

    def prepare(self: SqliteDatabase) -> None:
        plain(self)
        self._connection.execute("PRAGMA synchronous = OFF")

    SqliteDatabase._prepare = prepare  # type: ignore[method-assign]


def artifacts_fsync_off() -> None:
    """What goes to the artifact store does not wait for the disk."""
    artifacts._synchronise = lambda *_: None


def fence_off() -> None:
    """Nobody looks whether another shard has claimed what this one writes to, and reads from."""
    Claims.check = lambda *_: None  # type: ignore[method-assign]
    lease_off()


def lease_off() -> None:
    """Nobody looks whether another shard has claimed what this one reads from."""
    Claims.look = lambda self: ClaimsView(monotonic_s(), {})  # type: ignore[method-assign]


def dedup_off() -> None:
    """A repeat is not recognised, neither here nor in the store."""
    Ledger.find = lambda *_: None  # type: ignore[method-assign]
    persist.list_acks = lambda answered: []


def identity_once() -> None:
    """All openings of clients in the process, and in its forked children, have one identity."""
    once = uuid.uuid4()
    _client.uuid = SimpleNamespace(uuid4=lambda: once)  # type: ignore[attr-defined, assignment]


_kept: list[apsw.VFS] = []


def _intercept(at_sync: Callable[[], None]) -> None:
    """Has this called before each synchronisation of a file of SQLite."""
    base = apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def xSync(self, flags: int) -> None:
            at_sync()
            super().xSync(flags)

    class Files(apsw.VFS):
        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
            return File(base, name, flags)

    _kept.append(Files("watched", base, makedefault=True))
