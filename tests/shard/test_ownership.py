"""Groups of slots move between shards of one store, everything but Ray."""

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import tensor
from tests.support.shards import Stoppable, serving

import attractor
from attractor_proto.names import SLOTS, slot_of
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.app import RunningShard, run_shard
from attractor_server.errors import StoreFailed
from attractor_server.rpc.context import FORWARDED
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.slots import GROUPS, group_of
from attractor_server.sharding.topology import Topology
from attractor_server.storage.claims import Claims

ONE = np.full((1, 4, 4), 0.5, np.float32)
QUICK = attractor.Retry(first_delay_s=0.01, limit_delay_s=0.1)


@pytest.fixture
async def pair(on_disk: ShardSpec) -> AsyncIterator[list[RunningShard]]:
    """Two shards of one store, of which the first owns everything."""
    async with serving(on_disk, 2) as running:
        await told(running, epoch=2, owner=0)
        yield running


async def told(shards: list[RunningShard], *, epoch: int, owner: int) -> None:
    """All shards are told at the same time that one of them owns everything."""
    topology = Topology(epoch, tuple(shard.info for shard in shards), np.full(SLOTS, owner, np.int32))
    async with anyio.create_task_group() as tasks:
        for shard in shards:
            tasks.start_soon(shard.learn, topology)


@pytest.mark.parametrize("at", [0, 1])
async def test_memories_move_back_and_forth_while_clients_store_and_query(pair: list[RunningShard], at: int) -> None:
    versions: dict[str, list[int]] = {f"busy/{n}": [] for n in range(4)}
    enough = anyio.Event()

    async def store(client: attractor.AsyncClient, name: str) -> None:
        memory = await client.create_memory(name, model="tiny", write="stream")
        while not enough.is_set():
            versions[name].append((await memory.store(ONE)).version)
            await memory.query(ONE)

    async with attractor.connect(pair[at].info.address, timeout_s=30, retry=QUICK) as client:
        async with anyio.create_task_group() as tasks:
            for name in versions:
                tasks.start_soon(store, client, name)
            for epoch in range(3, 9):
                with anyio.fail_after(raw.WAIT_S):
                    await told(pair, epoch=epoch, owner=epoch % 2)
                    while len(pair[epoch % 2].held) < GROUPS:  # a slow machine: the supervisor tells them again, too
                        await told(pair, epoch=epoch, owner=epoch % 2)
                assert [len(shard.held) for shard in pair] == [[GROUPS, 0], [0, GROUPS]][epoch % 2]
                await anyio.sleep(0.1)
            enough.set()
        for name, answered in versions.items():
            assert answered == list(range(1, len(answered) + 1))
            info = await client.memory(name).info()
            assert (info.version, info.patterns) == (len(answered), len(answered))


async def test_a_pipeline_of_stores_under_way_is_applied_in_order_and_once_while_its_memory_moves(
    pair: list[RunningShard],
) -> None:
    async with attractor.connect(pair[0].info.address, timeout_s=30, retry=QUICK) as client:
        memory = await client.create_memory("a", model="tiny", write="stream")
        versions: list[int] = []

        async def store() -> None:
            versions.append((await memory.store(ONE)).version)

        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(store)
            await anyio.sleep(0.02)
            await told(pair, epoch=3, owner=1)
        assert sorted(versions) == list(range(1, 201))
        assert (await memory.info()).patterns == 200


async def test_a_repeat_of_a_store_gets_its_first_answer_from_the_next_owner(pair: list[RunningShard]) -> None:
    request = pb.StoreRequest(memory="a", tensors=[tensor(ONE)], client_id="tests", sequence=1)
    async with aio.insecure_channel(pair[0].info.address) as channel:
        unary = memory_data_pb2_grpc.MemoryDataStub(channel)
        await raw.create(channel, "a")
        first = await unary.Store(request)
        await told(pair, epoch=3, owner=1)
        assert await unary.Store(request) == first


async def test_a_shard_without_a_lease_neither_answers_nor_forwards(on_disk: ShardSpec) -> None:
    async with serving(replace(on_disk, lease_s=1e-9)) as (shard,):
        async with aio.insecure_channel(shard.info.address) as channel:
            unary = memory_data_pb2_grpc.MemoryDataStub(channel)
            with pytest.raises(aio.AioRpcError) as caught:
                await unary.Query(pb.QueryRequest(memory="a", tensors=[tensor(ONE)]))
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert "about to change its shard" in (caught.value.details() or "")


async def test_a_shard_whose_group_was_seized_forgets_it_and_answers_nothing_of_it(pair: list[RunningShard]) -> None:
    old, new = pair
    async with (
        attractor.connect(old.info.address, timeout_s=20, retry=QUICK, direct=False) as client,
        aio.insecure_channel(old.info.address) as straight,
    ):
        memory = await client.create_memory("a", model="tiny")
        await memory.store(ONE)
        topology = Topology(3, (old.info, new.info), np.ones(SLOTS, np.int32))
        await new.learn(topology, seize=range(GROUPS))  # and the old owner is not told
        with anyio.fail_after(10):
            while group_of("a") in old.held:  # noqa: ASYNC110 - it finds out by itself
                await anyio.sleep(0.05)
        with pytest.raises(aio.AioRpcError) as caught:
            query = pb.QueryRequest(memory="a", tensors=[tensor(ONE)])
            await memory_data_pb2_grpc.MemoryDataStub(straight).Query(query, metadata=FORWARDED)
        assert caught.value.code() is StatusCode.UNAVAILABLE
        await old.learn(topology)
        assert (await memory.store(ONE)).version == 2


async def test_a_client_goes_on_by_another_shard_while_the_one_it_was_given_is_gone(on_disk: ShardSpec) -> None:
    first = Stoppable(on_disk)
    async with anyio.create_task_group() as tasks, run_shard(replace(on_disk, number=1)) as second:
        running = [await tasks.start(first.run), second]
        infos = tuple(shard.info for shard in running)
        halves = Topology(1, infos, (np.arange(SLOTS) % 2).astype(np.int32))
        for shard in running:
            await shard.learn(halves)
        names = [next(name for n in range(99) if slot_of(name := f"m/{n}") % 2 == half) for half in (0, 1)]
        async with attractor.connect(infos[0].address, timeout_s=20, retry=QUICK) as client:
            lost, spared = [await client.create_memory(name, model="tiny") for name in names]
            for memory in (lost, spared, spared):  # the second time by a link of its own
                await memory.store(ONE)
            await first.stop()
            await second.learn(Topology(2, infos, np.ones(SLOTS, np.int32)))
            assert (await lost.store(ONE)).version == 2
            assert (await spared.store(ONE)).version == 3


async def test_a_client_follows_a_memory_that_moved_without_waiting_before_it_tries(pair: list[RunningShard]) -> None:
    never = attractor.Retry(first_delay_s=3600, limit_delay_s=3600)
    async with attractor.connect(pair[0].info.address, timeout_s=20, retry=never) as client:
        memory = await client.create_memory("a", model="tiny")
        for epoch in range(3, 7):
            await memory.store(ONE)
            await told(pair, epoch=epoch, owner=epoch % 2)
        assert (await memory.query(ONE)).pattern.shape == ONE.shape


async def test_who_asks_the_former_owner_is_told_where_the_memory_is(pair: list[RunningShard]) -> None:
    async with aio.insecure_channel(pair[0].info.address) as channel, raw.raw_session(channel) as session:
        await raw.create(channel, "a")
        await session.open("a", 1)
        await told(pair, epoch=3, owner=1)
        await session.send(pb.SessionRequest(query=pb.QueryFrame(columns=raw.columns([2], [1], tensor(ONE)))))
        status = raw.failures(await session.receive())[2]
        assert raw.reason(status) == "OWNER_UNREACHABLE"
        assert raw.route(status) == pair[1].info.address


async def test_an_open_waits_for_a_memory_that_is_on_its_way(pair: list[RunningShard]) -> None:
    old, new = pair
    topology = Topology(3, (old.info, new.info), np.full(SLOTS, 1, np.int32))
    async with (
        aio.insecure_channel(old.info.address) as channel,
        aio.insecure_channel(new.info.address) as straight,
        raw.raw_session(straight) as session,
        anyio.create_task_group() as tasks,
    ):
        await raw.create(channel, "a")
        tasks.start_soon(new.learn, topology)
        await anyio.sleep(0.05)
        await session.send(pb.SessionRequest(open=pb.Open(request_id=1, handle=1, memory="a")))
        await session.send(pb.SessionRequest(query=pb.QueryFrame(columns=raw.columns([2], [1], tensor(ONE)))))
        await anyio.sleep(0.05)
        await old.learn(topology)
        assert (await session.receive()).opened.handle == 1
        assert list((await session.receive()).recalled.request_ids) == [2]


async def test_many_memories_are_opened_and_written_without_waiting_for_each(on_disk: ShardSpec) -> None:
    names = [f"n/{n}" for n in range(200)]
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        for name in names:
            await raw.create(channel, name)
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        async with raw.raw_session(channel) as session:
            for n, name in enumerate(names, 1):
                await session.send(pb.SessionRequest(open=pb.Open(request_id=n, handle=n, memory=name)))
            for n in range(1, len(names) + 1):
                columns = raw.columns([1000 + n], [n], tensor(ONE))
                await session.send(pb.SessionRequest(store=pb.StoreFrame(columns=columns, sequences=[1])))
            opened, stored = set[int](), set[int]()
            while len(stored) < len(names):
                answer = await session.receive()
                assert answer.WhichOneof("frame") in ("opened", "stored")
                opened |= {answer.opened.handle} - {0}
                stored |= set(answer.stored.request_ids)
        assert opened == set(range(1, len(names) + 1))
        assert [await raw.state(channel, name) for name in (names[0], names[-1])] == [(1, 1), (1, 1)]


async def test_what_a_shard_parts_with_leaves_its_bank_though_the_store_fails(
    pair: list[RunningShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with attractor.connect(pair[0].info.address, timeout_s=20, retry=QUICK) as client:
        await (await client.create_memory("a", model="tiny")).store(ONE)
    record = await pair[0]._shard.memories.get("a")
    assert record.pages

    def fail(ownership: Claims, groups: object) -> None:
        raise StoreFailed("not now")

    monkeypatch.setattr(Claims, "release", fail)
    with pytest.raises(StoreFailed):
        await pair[0].learn(Topology(3, tuple(one.info for one in pair), np.full(SLOTS, 1, np.int32)))
    with anyio.fail_after(20):
        while record.pages:  # noqa: ASYNC110 - of the engine's thread
            await anyio.sleep(0.005)
    monkeypatch.undo()
