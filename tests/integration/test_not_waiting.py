"""One client's long requests do not make others wait: neither in the engine nor on the event loop."""

import asyncio
import hashlib
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from grpc import aio
from numpy.testing import assert_array_equal
from tests.support import raw
from tests.support.session_frames import waiting
from tests.support.shards import serving
from tests.support.tiny_models import IMAGE, images

import attractor
from attractor_proto.v1 import memory_copies_pb2 as copies
from attractor_proto.v1 import memory_copies_pb2_grpc as copies_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.engine.engine import Engine
from attractor_server.errors import InvalidRequest, ServerError
from attractor_server.memories.outcomes import Outcome
from attractor_server.memories.records import Entry
from attractor_server.memories.store import MemoryStore
from attractor_server.rpc import codec
from attractor_server.rpc import imports as pieces_module
from attractor_server.rpc import session as session_module
from attractor_server.rpc.long_lists import LIST_BYTES
from attractor_server.rpc.session import IDS_AT_A_TIME, Session
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.database import number
from attractor_server.storage.memory_store import SqlMemoryStore

PATTERNS = 24


@pytest.fixture
async def quick(spec: ShardSpec, tmp_path: Path) -> AsyncIterator[RunningShard]:
    """A shard that stops long requests often."""
    spec = replace(spec, store_uri=uri_of(tmp_path / "data"), bank_bytes=64 << 20, batch_s=0.001)
    async with serving(spec) as (shard,):
        yield shard


async def test_a_query_is_answered_while_a_long_one_of_another_namespace_is_computed(quick: RunningShard) -> None:
    given = images(1024)
    async with attractor.connect(quick.info.address, timeout_s=60) as client:
        large = await client.create_memory("a/large", model="tiny", page_patterns=1, write="stream")
        small = await client.create_memory("b/small", model="tiny")
        await large.store(given)
        await small.store(given[:1])
        alone = await large.query(given, match=True)
        done: list[attractor.Recall] = []

        async def ask() -> None:
            done.append(await large.query(given, match=True))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            batcher = quick._shard.batcher
            while batcher.waiting or batcher.idle:
                await batcher.changes.wait()
            for _ in range(3):
                await small.query(given[:1])
                await small.store(given[:1])
            assert not done
            tasks.start_soon(large.erase, given[:8])  # stays behind it
    assert_array_equal(done[0].pattern, alone.pattern)
    assert done[0].match is not None
    assert alone.match is not None
    assert_array_equal(done[0].match.distance, alone.match.distance)


@pytest.mark.parametrize("what", ["restore", "forget_snapshot"])
async def test_others_are_served_before_all_pages_are_deleted_that_a_snapshot_had_or_replaces(
    on_disk: ShardSpec, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    turns, reached, opened = list[Operation](), anyio.Event(), threading.Event()
    loop, run = asyncio.get_running_loop(), Engine.run

    def noted(engine: Engine, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        turns.append(jobs[0].operation)
        loop.call_soon_threadsafe(reached.set)
        assert opened.wait(20)
        return run(engine, jobs)

    async with (
        serving(on_disk) as (shard,),
        attractor.connect(shard.info.address, timeout_s=60) as client,
        attractor.connect(shard.info.address, timeout_s=60) as other,
    ):
        large = await client.create_memory("a/large", model="tiny", page_patterns=1, write="stream")
        small = await other.create_memory("b/small", model="tiny")
        await large.snapshot("empty")
        await large.store(images(200))
        await large.snapshot("full")
        await large.restore("empty")
        if what == "restore":
            await large.restore("full")
            await large.forget_snapshot("full")
        monkeypatch.setattr(Engine, "run", noted)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(getattr(large, what), "empty" if what == "restore" else "full")
            await reached.wait()
            tasks.start_soon(small.query, images(1))
            await waiting(shard, "b/small", 1)
            opened.set()
        assert (await large.info()).patterns == 0
    assert turns.index(Operation.QUERY) < len(turns) - 1
    assert set(turns) == {Operation.TASK, Operation.QUERY}


PARTS = 40
"""In which the ids of a long cancellation are gone through"""


async def test_others_have_the_event_loop_while_millions_of_ids_are_cancelled(
    channel: aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks, turns = 0, list[int]()

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await anyio.lowlevel.checkpoint()

    plain = Session._cancel

    async def counted(session: Session, frame: pb.Cancel) -> None:
        before = ticks
        await plain(session, frame)
        turns.append(ticks - before)

    monkeypatch.setattr(Session, "_cancel", counted)
    monkeypatch.setattr(session_module, "IDLE_S", 0.0)  # a turn of the loop between two parts, however short
    await raw.create(channel, "a")
    opened, run = threading.Event(), Engine.run

    def held(engine: Engine, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        assert opened.wait(20)
        return run(engine, jobs)

    async with raw.raw_session(channel) as session, anyio.create_task_group() as tasks:
        assert (await session.open("a", 1)).opened.handle == 1
        monkeypatch.setattr(Engine, "run", held)
        query = pb.QueryFrame(columns=raw.columns([1], [1], raw.tensor(images(1))))
        await session.send(pb.SessionRequest(query=query))  # while it waits, all the others are looked for
        tasks.start_soon(tick)
        await session.send(pb.SessionRequest(cancel=pb.Cancel(request_ids=[7] * (PARTS * IDS_AT_A_TIME))))
        await session.send(pb.SessionRequest(open=pb.Open(memory="a", handle=2)))
        assert (await session.receive()).opened.handle == 2
        tasks.cancel_scope.cancel()
        opened.set()
    assert sum(turns) >= PARTS - 1, "a piece of a long list may end within a part"


async def test_lists_of_millions_are_never_decoded_at_a_stretch(
    channel: aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, decoded = Session._cancel, list[list[int]]()

    async def noted(session: Session, frame: pb.Cancel) -> None:
        decoded.append(list(frame.request_ids))
        await plain(session, frame)

    monkeypatch.setattr(Session, "_cancel", noted)
    ids = list(range(100, 300_100))  # of one byte to three
    query = pb.QueryFrame(columns=pb.RequestColumns(request_ids=[1], handles=[1], patterns=[1] * 300_000))
    await raw.create(channel, "a")
    async with raw.raw_session(channel) as session:
        await session.open("a", 1)
        await session.send(pb.SessionRequest(cancel=pb.Cancel(request_ids=ids)))
        (refused,) = raw.failures(await session.ask(pb.SessionRequest(query=query))).values()
        assert (await session.open("a", 2)).opened.handle == 2
    assert max(map(len, decoded)) <= LIST_BYTES
    assert [one for part in decoded for one in part] == ids
    field, told = raw.violation(refused)
    assert field == "query.columns.patterns"
    assert told.startswith("saw 13107 or more entries; expected 1")


def test_columns_of_millions_that_do_not_fit_are_refused_without_being_looked_at() -> None:
    columns = pb.RequestColumns(request_ids=[1], handles=[1], patterns=[1] * 1_000_000)
    shape = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[1] * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="saw 13107 or more entries; expected 1"):
            codec.check_columns(columns, where="query.columns", patterns_limit=1024)
        with pytest.raises(InvalidRequest, match="and 999992 more; expected"):
            codec._decode_values(IMAGE, shape, 1, "tensors[0]")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def cut(piece: copies.Piece, size: int) -> Iterator[copies.Piece]:
    """The same patterns, each in a piece of its own."""
    entry = piece.entry
    for at in range(0, len(entry.vectors), size):
        items = [entry.items[at // size]] if entry.items else []
        part = entry.vectors[at : at + size]
        yield copies.Piece(
            entry=copies.EntryPiece(version=entry.version, written=entry.written, vectors=part, items=items)
        )


async def test_a_store_that_comes_back_pattern_by_pattern_is_put_together_once(
    quick: RunningShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, address = images(PATTERNS), quick.info.address
    async with attractor.connect(address, timeout_s=60) as client, aio.insecure_channel(address) as channel:
        memory = await client.create_memory("a/m", model="tiny", page_patterns=PATTERNS)
        await memory.store(given, ids=[f"i{n}" for n in range(PATTERNS)])
        stub = copies_grpc.CopiesStub(channel)
        pieces = [one.piece async for one in stub.Export(copies.ExportRequest(name="a/m"))]
        size = given[0].nbytes
        small = [part for one in pieces[:-1] for part in (cut(one, size) if one.HasField("entry") else [one])]
        digest = hashlib.sha256(b"".join(one.SerializeToString(deterministic=True) for one in small))
        tail = copies.Piece(tail=copies.Tail(sha256=digest.digest()))
        joined = list[int]()
        plain = pieces_module._join

        def counted(parts: Sequence[Entry]) -> Entry:
            joined.append(len(parts))
            return plain(parts)

        monkeypatch.setattr(pieces_module, "_join", counted)
        await stub.Import(copies.ImportRequest(name="a/again", piece=one) for one in [*small, tail])
        assert joined == [PATTERNS]
        again = await client.get_memory("a/again")
        one, other = await memory.query(given, match=True), await again.query(given, match=True)
    assert_array_equal(one.pattern, other.pattern)
    assert one.match is not None
    assert other.match is not None
    assert list(one.match.id) == list(other.match.id)


def pages_of(journal: MemoryStore, memory: int) -> int:
    """Those that the store has of a memory, though nobody reaches it."""
    assert isinstance(journal, SqlMemoryStore)
    with journal._store.read() as cursor:
        return number(cursor.execute("SELECT count(*) FROM pages WHERE memory = ?", (memory,)))


async def test_a_shard_forgets_as_it_starts_what_was_left_of_a_deletion(spec: ShardSpec, tmp_path: Path) -> None:
    spec = replace(spec, store_uri=uri_of(tmp_path / "data"), bank_bytes=64 << 20)
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=60) as client:
        memory = await client.create_memory("a/m", model="tiny", page_patterns=1, write="stream")
        await memory.store(images(80))
        left = (await shard._shard.memories.get("a/m")).id
        assert await shard._shard.memories.ask(lambda journal: journal.begin_delete(left))  # the rest never comes
    async with serving(spec) as (shard,):
        with anyio.fail_after(20):
            while await shard._shard.memories.ask(lambda journal: pages_of(journal, left)):  # noqa: ASYNC110 - the store tells nobody
                await anyio.sleep(0.05)


async def test_a_memory_with_many_pages_and_snapshots_is_deleted_in_parts(quick: RunningShard) -> None:
    parts = list[int]()
    plain = quick._shard.batcher._engine.run

    def counted(jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        parts.append(jobs[0].operation is Operation.DELETE)
        return plain(jobs)

    quick._shard.batcher._engine.run = counted  # type: ignore[method-assign]
    async with attractor.connect(quick.info.address, timeout_s=60) as client:
        memory = await client.create_memory("a/m", model="tiny", page_patterns=1, write="stream")
        await memory.store(images(200))
        await memory.snapshot("one")
        await client.delete_memory("a/m")
        with pytest.raises(attractor.MemoryNotFound):
            await client.get_memory("a/m")
        anew = await client.create_memory("a/m", model="tiny")
        assert (await anew.info()).patterns == 0
        assert await anew.snapshots() == []
    assert sum(parts) > 4
