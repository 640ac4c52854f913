"""Known entries that are pulled towards the cue, rather than held."""

import anyio
import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.app import RunningShard

STORED, CUES = np.random.default_rng(10).random((2, 3, 4, 4), dtype=np.float32)
KNOWN = np.random.default_rng(11).random((4, 4)) < 0.5


@pytest.fixture
async def able(client: attractor.AsyncClient) -> attractor.AsyncMemory:
    memory = await client.create_memory("able", model="able")
    await memory.store(STORED)
    return memory


async def test_what_is_pulled_moves_but_stays_nearer_to_the_cue_than_what_is_free(able: attractor.AsyncMemory) -> None:
    held, pulled = [await able.query(CUES, known=KNOWN, hold=hold) for hold in (True, False)]
    free = await able.query(CUES)

    def gap(recall: attractor.Recall) -> float:
        return float(np.abs(recall.pattern - CUES)[:, KNOWN].mean())

    assert gap(held) == 0 < gap(pulled) < gap(free)
    ignored = await able.query(CUES, hold=False)  # nothing is known
    assert (ignored.pattern == free.pattern).all()


async def test_calls_under_way_together_are_each_read_as_they_asked(able: attractor.AsyncMemory) -> None:
    alone = {hold: (await able.query(CUES, known=KNOWN, hold=hold)).pattern for hold in (True, False)}
    together: list[tuple[bool, attractor.Recall]] = []

    async def ask(hold: bool) -> None:
        together.append((hold, await able.query(CUES, known=KNOWN, hold=hold)))

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(ask, n % 3 == 0)
    for hold, recall in together:
        assert np.abs(recall.pattern - alone[hold]).max() < 1e-4


async def test_streams_pull_too(able: attractor.AsyncMemory) -> None:
    alone = await able.query(CUES[0], known=KNOWN, hold=False)
    async with able.stream() as stream:
        (recall,) = [one async for one in stream.query([CUES[0]], known=KNOWN, hold=False)]
    assert np.abs(recall.pattern - alone.pattern).max() < 1e-4


async def test_the_models_say_whether_they_pull_and_the_others_refuse(client: attractor.AsyncClient) -> None:
    pulls = {model.name: model.pulls for model in await client.models()}
    assert (pulls["able"], pulls["tiny"]) == (True, False)
    memory = await client.create_memory("a", model="tiny")
    with pytest.raises(attractor.CannotPull, match="model tiny cannot pull") as caught:
        await memory.query(CUES, known=KNOWN, hold=False)
    assert caught.value.reason == "CANNOT_PULL"


async def test_a_session_and_a_unary_call_pull_alike_and_refuse_alike(channel: aio.Channel) -> None:
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    for name, model in (("a", "able"), ("b", "tiny")):
        await raw.create(channel, name, model)
        await stub.Store(pb.StoreRequest(memory=name, tensors=[tensor(STORED)]))
    cue = tensor(CUES, known=np.broadcast_to(KNOWN, CUES.shape))
    unary = await stub.Query(pb.QueryRequest(memory="a", tensors=[cue], pull_known=True))
    held = await stub.Query(pb.QueryRequest(memory="a", tensors=[cue]))
    assert unary.tensors != held.tensors
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Query(pb.QueryRequest(memory="b", tensors=[cue], pull_known=True))
    assert caught.value.code() is StatusCode.FAILED_PRECONDITION
    assert raw.reason(raw.status_of(caught.value)) == "CANNOT_PULL"
    async with raw_session(channel) as session:
        await session.open("a", 1)
        await session.open("b", 2)
        frame = pb.QueryFrame(columns=columns([1], [1], cue, rows=3), pull_known=True)
        assert (await session.ask(pb.SessionRequest(query=frame))).recalled.tensors == unary.tensors
        frame = pb.QueryFrame(columns=columns([2], [2], cue, rows=3), pull_known=True)
        (status,) = raw.failures(await session.ask(pb.SessionRequest(query=frame))).values()
        assert raw.reason(status) == "CANNOT_PULL"


async def test_a_pull_is_forwarded(pair_of_shards: list[RunningShard]) -> None:
    async with attractor.connect(pair_of_shards[0].info.address, timeout_s=20, direct=False) as client:
        for n in range(6):  # some of them are the other shard's
            memory = await client.create_memory(f"m{n}", model="able")
            await memory.store(STORED)
            recall = await memory.query(CUES, known=KNOWN, hold=False)
            assert (recall.pattern[:, KNOWN] != CUES[:, KNOWN]).any()
