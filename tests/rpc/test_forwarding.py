"""Any shard answers any client: what it does not own goes to the owner and back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count

import anyio
import numpy as np
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream, TaskGroup
from grpc import aio
from tests.support import raw
from tests.support.raw import HELLO, columns, raw_session, tensor
from tests.support.shards import HERE, THERE, Stoppable

import attractor
from attractor_proto.names import FORWARDED_KEY, ROUTE_KEY, slot_of
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard, run_shard
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology

ONE = np.random.default_rng(2).random((1, 4, 4), dtype=np.float32)


@pytest.fixture
async def first(pair_of_shards: list[RunningShard]) -> AsyncIterator[aio.Channel]:
    """A channel to shard 0, which owns HERE and forwards THERE."""
    async with aio.insecure_channel(pair_of_shards[0].info.address) as channel:
        for name in (HERE, THERE):
            await raw.create(channel, name)
        yield channel


async def test_slots_belong_to_the_shards_that_the_topology_names(first: aio.Channel) -> None:
    answer = await memories_pb2_grpc.ClusterStub(first).GetTopology(memories_pb2.GetTopologyRequest())
    assert (len(answer.slot_owners), len(answer.shards)) == (1024, 2)
    assert answer.slot_owners[slot_of(HERE)] == 0
    assert answer.slot_owners[slot_of(THERE)] == 1


async def test_a_session_is_told_of_the_other_shards(first: aio.Channel, pair_of_shards: list[RunningShard]) -> None:
    call = memory_data_pb2_grpc.MemoryDataStub(first).Session()
    await call.write(pb.SessionRequest(hello=HELLO))
    answer = await call.read()
    call.cancel()
    assert isinstance(answer, pb.SessionResponse)
    assert set(answer.welcome.shards) == {shard.info.address for shard in pair_of_shards}


async def test_a_unary_call_is_forwarded_and_names_the_owner(
    first: aio.Channel, pair_of_shards: list[RunningShard]
) -> None:
    stub = memory_data_pb2_grpc.MemoryDataStub(first)
    for name, route in ((HERE, None), (THERE, pair_of_shards[1].info.address)):
        call = stub.Store(pb.StoreRequest(memory=name, tensors=[tensor(ONE)]))
        assert (await call).version == 1
        assert dict(await call.trailing_metadata()).get(ROUTE_KEY) == route
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Store(pb.StoreRequest(memory=THERE, tensors=[tensor(ONE * np.float32(np.nan))]))
    assert "saw nan" in raw.violation(raw.status_of(caught.value))[1]


async def test_one_frame_may_hold_memories_of_both_shards(
    first: aio.Channel, pair_of_shards: list[RunningShard], random: np.random.Generator
) -> None:
    async with raw_session(first) as session:
        assert (await session.open(HERE, 1)).opened.route == ""
        assert (await session.open(THERE, 2)).opened.route == pair_of_shards[1].info.address
        patterns = random.random((4, 4, 4), dtype=np.float32)
        frame = pb.StoreFrame(columns=columns([1, 2, 3, 4], [1, 2, 1, 2], tensor(patterns)), sequences=[1, 1, 2, 2])
        answers = [await session.ask(pb.SessionRequest(store=frame))]
        while sum(len(answer.stored.request_ids) for answer in answers) < 4:
            answers.append(await session.receive())
        versions = {i: v for a in answers for i, v in zip(a.stored.request_ids, a.stored.versions, strict=True)}
        assert versions == {1: 1, 2: 1, 3: 2, 4: 2}
    assert [await raw.state(first, name) for name in (HERE, THERE)] == [(2, 2), (2, 2)]


async def test_masks_fields_and_trajectories_survive_the_way(first: aio.Channel, random: np.random.Generator) -> None:
    here, there = (next(f"p{n}" for n in range(99) if slot_of(f"p{n}") % 2 == shard) for shard in (0, 1))
    key, value = random.random((6, 8), dtype=np.float32), random.random((6, 6), dtype=np.float32)
    known = random.random((6, 6)) < 0.5
    cues = (tensor(value, field="value", known=known), tensor(key, field="key"))
    answers: dict[int, pb.SessionResponse] = {}
    async with raw_session(first) as session:
        for handle, name in ((1, here), (2, there)):
            await raw.create(first, name, "pair")
            await session.open(name, handle)
        asked = columns([1, 2, 3], [1, 2, 1], *cues, rows=2)
        await session.send(pb.SessionRequest(query=pb.QueryFrame(columns=asked, steps=3, trajectory=True)))
        steps = dict.fromkeys((1, 2, 3), 0)
        while len(answers) < 3:
            frame = await session.receive()
            if frame.HasField("trajectory"):
                assert frame.trajectory.step == steps[frame.trajectory.request_id]
                steps[frame.trajectory.request_id] += 1
            else:
                answers.update(dict.fromkeys(frame.recalled.request_ids, frame))
        assert set(steps.values()) == {4}
    (forwarded,) = [frame for frame in answers.values() if list(frame.recalled.request_ids) == [2]]
    recalled = {part.field: raw.values_of(part) for part in forwarded.recalled.tensors}
    assert (recalled["value"][known[2:4]] == value[2:4][known[2:4]]).all()
    assert (recalled["key"] != key[2:4]).any()


class Pair:
    """Shard 0, and an owner of THERE that goes away and comes back, empty, on the same port."""

    def __init__(self, spec: ShardSpec, tasks: TaskGroup) -> None:
        self._spec = replace(spec, number=1)
        self._tasks = tasks
        self._topology: Topology | None = None
        self._owner = Stoppable(self._spec)

    async def start(self, one: RunningShard) -> None:
        other = await self._tasks.start(self._owner.run)
        self._topology = Topology(1, (one.info, other.info))
        for shard in (one, other):
            await shard.learn(self._topology)

    async def stop(self) -> None:
        await self._owner.stop()

    async def come_back(self) -> None:
        assert self._topology is not None
        port = int(self._topology.shards[1].address.rpartition(":")[2])
        self._owner = Stoppable(replace(self._spec, port=port))
        await (await self._tasks.start(self._owner.run)).learn(self._topology)


@asynccontextmanager
async def fragile(spec: ShardSpec) -> AsyncIterator[tuple[RunningShard, Pair]]:
    async with run_shard(spec) as one, anyio.create_task_group() as tasks:
        pair = Pair(spec, tasks)
        await pair.start(one)
        yield one, pair
        await pair.stop()


async def test_an_owner_that_goes_away_kills_its_handles_and_serves_new_ones_when_it_is_back(spec: ShardSpec) -> None:
    async with fragile(spec) as (one, pair), aio.insecure_channel(one.info.address) as channel:
        await raw.create(channel, THERE)
        async with raw_session(channel) as session:
            await session.open(THERE, 1)
            assert (await session.ask(query(1, 1))).HasField("recalled")
            await pair.stop()
            for answer in (await session.ask(query(2, 1)), await session.open(THERE, 2)):
                (status,) = raw.failures(answer).values()
                assert raw.reason(status) == "OWNER_UNREACHABLE"
            await pair.come_back()
            handle = await reopened(session, channel)
            assert (await session.ask(query(3, handle))).HasField("recalled")


def query(request_id: int, handle: int) -> pb.SessionRequest:
    return pb.SessionRequest(query=pb.QueryFrame(columns=columns([request_id], [handle], tensor(ONE))))


async def reopened(session: raw.RawSession, channel: aio.Channel) -> int:
    """A new handle, as soon as the owner is reached again; the memory is made anew."""
    with anyio.fail_after(20):
        for handle in count(10):
            answer = await session.open(THERE, handle)
            if answer.HasField("opened"):
                return handle
            (status,) = raw.failures(answer).values()
            if raw.reason(status) == "MEMORY_NOT_FOUND":
                await raw.create(channel, THERE)
    raise AssertionError


async def test_the_sdk_gets_through_the_loss_of_an_owner_that_it_reaches_through_another(spec: ShardSpec) -> None:
    async with (
        fragile(spec) as (one, pair),
        attractor.connect(one.info.address, timeout_s=20, direct=False) as client,
    ):
        memory = await client.create_memory(THERE, model="tiny")
        assert (await memory.store(ONE)).version == 1
        await pair.stop()
        await pair.come_back()
        with pytest.raises(attractor.MemoryNotFound):
            await memory.store(ONE)
        memory = await client.create_memory(THERE, model="tiny")
        assert (await memory.store(ONE)).version == 1


async def test_what_was_forwarded_is_not_forwarded_again(first: aio.Channel) -> None:
    forwarded = ((FORWARDED_KEY, "1"),)
    async with raw_session(first, metadata=forwarded) as session:
        (status,) = raw.failures(await session.open(THERE, 1)).values()
        assert raw.reason(status) == "OWNER_UNREACHABLE"
        assert (await session.open(HERE, 2)).HasField("opened")
    with pytest.raises(aio.AioRpcError) as caught:
        request = pb.QueryRequest(memory=THERE, tensors=[tensor(ONE)])
        await memory_data_pb2_grpc.MemoryDataStub(first).Query(request, metadata=forwarded)
    assert raw.reason(raw.status_of(caught.value)) == "OWNER_UNREACHABLE"


async def test_a_handle_whose_opening_failed_elsewhere_is_free(first: aio.Channel) -> None:
    missing = next(name for n in range(99) if slot_of(name := f"later/{n}") % 2 == 1)
    async with raw_session(first) as session:
        (status,) = raw.failures(await session.open(missing, 5)).values()
        assert raw.reason(status) == "MEMORY_NOT_FOUND"
        await raw.create(first, missing)
        assert (await session.open(missing, 5)).HasField("opened")
        assert (await session.ask(query(9, 5))).HasField("recalled")


async def test_an_owner_that_drains_is_not_held_up_by_those_who_forward_to_it(
    first: aio.Channel, pair_of_shards: list[RunningShard]
) -> None:
    async with raw_session(first) as session:
        await session.open(THERE, 1)
        with anyio.fail_after(30):
            assert await pair_of_shards[1].drain(120)
        (status,) = raw.failures(await session.ask(query(1, 1))).values()
        assert raw.reason(status) == "OWNER_UNREACHABLE"


async def test_lists_go_over_both_shards_page_by_page(first: aio.Channel) -> None:
    stub = memories_pb2_grpc.MemoriesStub(first)
    names = sorted(f"list/{n:02}" for n in range(25))
    for name in names:
        await raw.create(first, name)
    found: list[str] = []
    request = memories_pb2.ListRequest(prefix="list/", page_size=4)
    while True:
        page = await stub.List(request)
        assert len(page.memories) <= 4
        found += [memory.name for memory in page.memories]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == names
    await stub.Delete(memories_pb2.DeleteRequest(name=names[0]))
    assert [m.name for m in (await stub.List(memories_pb2.ListRequest(prefix="list/0"))).memories] == names[1:10]


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names a proxy, at which nothing answers."""
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
async def tunnels(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """A proxy that the environment names, and the addresses that it was asked to connect to."""
    asked: list[str] = []

    async def pump(source: ByteReceiveStream, target: ByteSendStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for chunk in source:
                await target.send(chunk)

    async def connect(client: SocketStream) -> None:
        _, address, _ = (await client.receive()).split(b"\r\n")[0].decode().split()
        asked.append(address)
        host, _, port = address.rpartition(":")
        async with client, await anyio.connect_tcp(host, int(port)) as server, anyio.create_task_group() as both:
            await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            both.start_soon(pump, client, server)
            both.start_soon(pump, server, client)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, connect)
        port = listener.extra(SocketAttribute.local_port)
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{port}")
        yield asked
        tasks.cancel_scope.cancel()


async def test_a_client_uses_the_proxy_that_the_environment_names_where_it_is_told_to(
    pair_of_shards: list[RunningShard], tunnels: list[str]
) -> None:
    address = pair_of_shards[0].info.address
    async with attractor.connect(address) as client:
        await client.create_memory(HERE, model="tiny")
    assert not tunnels
    async with attractor.connect(address, use_proxy=True) as client:
        assert (await client.memory(HERE).info()).name == HERE
    assert address in tunnels


@pytest.mark.usefixtures("proxied")
async def test_a_proxy_in_the_environment_is_used_neither_by_clients_nor_among_shards(
    pair_of_shards: list[RunningShard],
) -> None:
    address = pair_of_shards[0].info.address
    direct = aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    async with direct as channel, attractor.connect(address, connect_timeout_s=5) as client:
        await raw.create(channel, THERE)  # by way of shard 0
        await client.create_memory(HERE, model="tiny")
