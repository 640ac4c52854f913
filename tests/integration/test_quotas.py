"""Quotas of namespaces: nothing goes over, what is refused leaves nothing, and others do not notice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.identities import ROOT, put_text, write_identities
from tests.support.raw import raw_session, tensor
from tests.support.shards import serving

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc
from attractor_server.app import RunningShard
from attractor_server.scheduling.jobs import Job, Origin
from attractor_server.scheduling.queue import Queue
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.tables import usage as usage_rows

PATTERNS = np.random.default_rng(1).random((64, 4, 4), dtype=np.float32)

BOUNDED = """
[[quota]]
namespace = "small"
memories = 3
items = 12
[[quota]]
namespace = "light"
bytes = 4_000
[[quota]]
namespace = "slow"
patterns_per_s = 20
[[quota]]
namespace = "rare"
requests_per_s = 1
[[quota]]
namespace = "narrow"
sessions = 1
handles = 2
"""


@asynccontextmanager
async def bounded(
    spec: ShardSpec, folder: Path, text: str = BOUNDED, shards: int = 1
) -> AsyncIterator[tuple[list[RunningShard], attractor.AsyncClient]]:
    file = folder / "quotas.toml"
    await put_text(file, text)
    async with (
        serving(replace(spec, quotas=file), shards) as running,
        attractor.connect(running[0].info.address, timeout_s=20) as client,
    ):
        yield running, client


async def check_counts(shard: RunningShard, *namespaces: str) -> None:
    """Compare what was counted with what there is."""
    store = shard._shard.memories._store
    assert store is not None

    def look() -> None:
        with store._store.transaction() as cursor:
            for namespace in namespaces:
                counted = usage_rows.load(cursor, [namespace], "")[namespace]
                assert counted == usage_rows.measure_all(cursor, namespace), namespace

    await anyio.to_thread.run_sync(look)


async def test_a_namespace_keeps_no_more_than_its_quota_and_its_counts_stay_true(
    durable: ShardSpec, tmp_path: Path
) -> None:
    async with bounded(durable, tmp_path) as ((shard,), client):
        first = await client.create_memory("small/a", model="tiny", page_patterns=4)
        other = await client.create_memory("other/a", model="tiny")
        await first.store(PATTERNS[:8], ids=[f"i{n}" for n in range(8)], payloads=["x" * n for n in range(8)])
        with pytest.raises(
            attractor.Exhausted, match=r"items: namespace 'small' would have 13, has 8, and may have 12"
        ) as over:
            await first.store(PATTERNS[8:13])
        assert over.value.reason == "QUOTA"
        assert (await first.info()).patterns == 8
        await other.store(PATTERNS)
        # What copies a memory copies what it keeps.
        with pytest.raises(attractor.Exhausted, match="items"):
            await first.snapshot("all")
        with pytest.raises(attractor.Exhausted, match="items"):
            await first.fork("small/b")
        with pytest.raises(attractor.NotFound):
            await client.get_memory("small/b")
        # What makes room makes room at once.
        await first.items.erase([f"i{n}" for n in range(6)])
        await check_counts(shard, "small")
        await first.snapshot("two")
        await first.store(PATTERNS[:4])
        fork = await first.fork("other/b")
        await fork.store(PATTERNS[:20])
        await first.restore("two")
        await first.forget_snapshot("two")
        await first.rebuild()
        await check_counts(shard, "small")
        await first.export(tmp_path / "exported")
        await client.import_memory(tmp_path / "exported", name="small/c")
        await client.create_memory("small/b", model="tiny")
        with pytest.raises(
            attractor.Exhausted, match=r"memories: namespace 'small' would have 4, has 3, and may have 3"
        ):
            await client.create_memory("small/d", model="tiny")
        with pytest.raises(attractor.Exhausted, match="memories"):
            await client.import_memory(tmp_path / "exported", name="small/d")
        await client.create_memory("small/b", model="tiny")  # which there is
        await check_counts(shard, "small")
        await client.delete_memory("small/a")
        await check_counts(shard, "small")
        await client.create_memory("small/d", model="tiny")
        # Bytes: payloads count.
        light = await client.create_memory("light/a", model="tiny")
        await light.store(PATTERNS[:4], payloads=[b"x" * 500] * 4)
        with pytest.raises(
            attractor.Exhausted, match=r"bytes: namespace 'light' would have \d+, has \d+, and may have 4000"
        ):
            await light.store(PATTERNS[4:8], payloads=[b"x" * 500] * 4)
        await light.store(PATTERNS[4:5])
        await check_counts(shard, "light")


async def test_many_at_once_on_several_shards_fill_a_quota_to_the_last_and_not_beyond(
    durable: ShardSpec, tmp_path: Path
) -> None:
    text = '[[quota]]\nnamespace = "t*"\nmemories = 8\nitems = 53\n'
    async with bounded(durable, tmp_path, text, shards=2) as (shards, client):
        made = [await client.create_memory(f"team/{n}", model="tiny") for n in range(8)]
        free = await client.create_memory("free/0", model="tiny")
        stored, refused = 0, 0

        async def fill(memory: attractor.AsyncMemory, n: int) -> None:
            nonlocal stored, refused
            try:
                await memory.store(PATTERNS[n : n + 1])
                stored += 1
            except attractor.Exhausted:
                refused += 1

        async with anyio.create_task_group() as tasks:
            for memory in made:
                for n in range(10):
                    tasks.start_soon(fill, memory, n)
            for n in range(10):
                tasks.start_soon(free.store, PATTERNS[n : n + 1])
        assert (stored, refused) == (53, 27)
        assert sum([(await memory.info()).patterns for memory in made]) == 53
        assert (await free.info()).patterns == 10
        await check_counts(shards[0], "team")


async def test_sessions_wait_for_their_rate_and_unary_calls_are_told_when_to_come_again(
    spec: ShardSpec, tmp_path: Path
) -> None:
    async with (
        bounded(spec, tmp_path) as ((shard,), client),
        aio.insecure_channel(shard.info.address) as channel,
    ):
        slow = await client.create_memory("slow/a", model="tiny")
        started_s = anyio.current_time()
        async with anyio.create_task_group() as tasks:  # 20 at once, then 20 in a second
            for n in range(5):
                tasks.start_soon(slow.store, PATTERNS[10 * n : 10 * n + 10])
        assert anyio.current_time() - started_s > 0.9
        request = pb.QueryRequest(memory="slow/a", tensors=[tensor(PATTERNS[:60])])
        await slow.query(PATTERNS[:40])
        with pytest.raises(aio.AioRpcError) as refused:
            await rpc.MemoryDataStub(channel).Query(request)
        assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
        info, retry = read_details(refused.value)
        assert (info.reason, dict(info.metadata)) == (
            "RATE",
            {"namespace": "slow", "quota": "patterns_per_s", "limit": "20"},
        )
        assert 0 < retry.retry_delay.ToMilliseconds() <= 3000
        with pytest.raises(attractor.TimeoutExceeded):
            await slow.query(PATTERNS[:1], timeout_s=0.05)
        # Calls of the SDK that are not of a session are repeated until they may be made.
        rare = await client.create_memory("rare/a", model="tiny")
        for _ in range(2):
            await rare.info()


async def test_a_namespace_has_no_more_clients_and_handles_than_it_may(spec: ShardSpec, tmp_path: Path) -> None:
    async with (
        bounded(spec, tmp_path) as ((shard,), client),
        aio.insecure_channel(shard.info.address) as channel,
    ):
        for name in ("narrow/a", "narrow/b", "narrow/c", "wide/a"):
            await client.create_memory(name, model="tiny")
        async with raw_session(channel) as session:
            assert (await session.open("narrow/a", 1)).WhichOneof("frame") == "opened"
            assert (await session.open("wide/a", 2)).WhichOneof("frame") == "opened"
            async with raw_session(channel) as second:  # the same client
                assert (await second.open("narrow/b", 1)).WhichOneof("frame") == "opened"
                (failure,) = raw.failures(await second.open("narrow/c", 2)).values()
                assert "handles: namespace 'narrow' would have 3, has 2, and may have 2" in failure.message
                assert (await second.open("wide/a", 3)).WhichOneof("frame") == "opened"
                await second.send(pb.SessionRequest(close=pb.Close(handle=1)))
                async with raw_session(channel, hello=pb.Hello(protocol_version=1, client_id="another")) as third:
                    (failure,) = raw.failures(await third.open("narrow/b", 1)).values()
                    assert "sessions: namespace 'narrow' would have 2, has 1" in failure.message
                assert (await second.open("narrow/c", 2)).WhichOneof("frame") == "opened"
        with anyio.fail_after(20):
            while shard._shard.occupancy._handles:  # noqa: ASYNC110 - the end of a session is told to nobody
                await anyio.sleep(0.01)


async def test_quotas_change_with_their_file_and_a_wrong_one_leaves_them(
    on_disk: ShardSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bounded(on_disk, tmp_path) as ((shard,), client):
        quotas, file = shard._shard.occupancy._quotas, tmp_path / "quotas.toml"
        memory = await client.create_memory("small/a", model="tiny")
        await memory.store(PATTERNS[:12])
        await put_text(file, "[[quota]]\n")
        await quotas.look()
        assert "quotas stay as they were" in caplog.text
        with pytest.raises(attractor.Exhausted):
            await memory.store(PATTERNS[:1])
        await put_text(file, BOUNDED.replace("items = 12", "items = 13"))
        await quotas.look()
        await memory.store(PATTERNS[:1])
        await put_text(file, "")
        await quotas.look()
        await memory.store(PATTERNS[:20])  # uncounted
        await put_text(file, BOUNDED)
        await quotas.look()
        with pytest.raises(attractor.Exhausted, match="would have 34, has 33, and may have 12"):
            await memory.store(PATTERNS[:1])
        await memory.erase(PATTERNS[:5])  # less is always welcome
        await check_counts(shard, "small")


async def test_an_identity_has_one_part_of_the_server_wherever_it_calls_from(
    on_disk: ShardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "identities.toml"
    tokens = await write_identities(file, {**ROOT, "ada": ["*:write"]})
    async with serving(replace(on_disk, identities=file)) as (shard,):
        async with attractor.connect(shard.info.address, token=tokens["root"], timeout_s=20) as client:
            await client.create_memory("a/a", model="tiny")
        seen, put = list[Origin | None](), Queue.put

        def note(queue: Queue, job: Job) -> None:
            seen.append(job.origin)
            put(queue, job)

        monkeypatch.setattr(Queue, "put", note)
        for name in ("root", "ada"):
            async with attractor.connect(shard.info.address, token=tokens[name], timeout_s=20) as client:
                memory = await client.get_memory("a/a")
                await memory.store(PATTERNS[:1])
                await memory.items.put(name)
        assert {origin and origin[0] for origin in seen} == {"token:root", "token:ada"}


def read_details(error: aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in raw.status_of(error).details:
        detail.Unpack(info) or detail.Unpack(retry)
    return info, retry
