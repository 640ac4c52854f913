"""Erasing: what was stored becomes a stranger again, once, and in its turn."""

from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
import torch
from grpc import StatusCode, aio
from numpy.testing import assert_allclose
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import connected, serving
from tests.support.tiny_models import IMAGE, able_model

import attractor
from attractor_proto.names import ROUTE_KEY, slot_of
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.app import RunningShard
from attractor_server.energy.model_file import save_model
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

KEPT, GONE = np.random.default_rng(7).random((2, 2, 4, 4), dtype=np.float32)
ONE, OTHER = GONE[:1], GONE[1:]


def store(request_id: int, sequence: int, values: "raw.Array" = ONE) -> pb.SessionRequest:
    request = columns([request_id], [1], tensor(values), rows=len(values))
    return pb.SessionRequest(store=pb.StoreFrame(columns=request, sequences=[sequence]))


def erase(request_id: int, sequence: int, values: "raw.Array" = ONE) -> pb.SessionRequest:
    request = columns([request_id], [1], tensor(values), rows=len(values))
    return pb.SessionRequest(erase=pb.EraseFrame(columns=request, sequences=[sequence]))


async def test_what_is_erased_is_less_familiar_than_what_stays(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="able")
    await memory.store(np.concatenate([KEPT, GONE]))
    before_kept, before_gone = await memory.recognize(KEPT), await memory.recognize(GONE)
    assert await memory.erase(GONE) == attractor.EraseResult(version=2, total=2)
    kept, gone = await memory.recognize(KEPT), await memory.recognize(GONE)
    rise_kept = (kept.delta_energy - before_kept.delta_energy).mean()
    rise_gone = (gone.delta_energy - before_gone.delta_energy).mean()
    assert rise_gone > max(2 * rise_kept, 0)
    info = await memory.info()
    assert (info.version, info.patterns) == (2, 2)


async def test_the_models_say_whether_they_erase_and_the_others_refuse(client: attractor.AsyncClient) -> None:
    erases = {model.name: model.erases for model in await client.models()}
    assert (erases["able"], erases["tiny"]) == (True, False)
    memory = await client.create_memory("a", model="tiny")
    await memory.store(KEPT)
    with pytest.raises(attractor.CannotErase, match="model tiny cannot erase") as caught:
        await memory.erase(KEPT)
    assert caught.value.reason == "CANNOT_ERASE"
    assert (await memory.info()).version == 1


async def test_a_repeated_number_erases_once_and_stores_and_erases_are_counted_together(channel: aio.Channel) -> None:
    await raw.create(channel, "a", "able")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        await session.ask(store(1, 1, GONE))
        first = (await session.ask(erase(2, 2))).erased
        assert [*first.request_ids, *first.versions, *first.totals] == [2, 2, 1]
        await session.ask(store(3, 3, KEPT))
        again = (await session.ask(erase(4, 2))).erased
        assert [*again.request_ids, *again.versions, *again.totals] == [4, 2, 1]
    async with raw_session(channel) as session:
        assert (await session.open("a", 1)).opened.last_sequence == 3
        assert (await session.ask(erase(1, 2))).erased.versions == [2]
    unary = memory_data_pb2_grpc.MemoryDataStub(channel)
    request = pb.EraseRequest(memory="a", tensors=[tensor(ONE)], client_id="tests", sequence=2)
    assert (await unary.Erase(request)).version == 2
    request.sequence = 4
    answer = await unary.Erase(request)
    assert (answer.version, answer.total) == (4, 2)
    assert await raw.state(channel, "a") == (4, 2)


async def test_answers_come_in_the_order_of_stores_and_erases(channel: aio.Channel) -> None:
    await raw.create(channel, "a", "able")
    async with raw_session(channel) as session:
        await session.open("a", 1)
        for n in range(12):
            await session.send((erase if n % 3 == 2 else store)(n, n + 1))
        ids: list[int] = []
        totals: list[int] = []
        while len(ids) < 12:
            frame = await session.receive()
            written = frame.erased if frame.HasField("erased") else frame.stored
            ids += written.request_ids
            totals += written.totals
        assert ids == list(range(12))
        assert totals == [1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4]


async def test_an_empty_memory_has_nothing_to_erase_and_takes_no_place(spec: ShardSpec) -> None:
    one_place = replace(spec, bank_bytes=able_model("able", IMAGE).page_bytes)
    async with serving(one_place) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        first, second = [await client.create_memory(name, model="able") for name in ("a", "b")]
        assert await first.erase(GONE) == attractor.EraseResult(version=1, total=0)
        assert (await first.recognize(GONE)).delta_energy.tolist() == [0, 0]
        assert (await second.store(ONE)).total == 1  # in the only place there is
        assert await second.erase(GONE) == attractor.EraseResult(version=2, total=0)


@pytest.fixture
def wild(tmp_path: Path) -> ShardSpec:
    """With a model whose eraser goes too far."""
    able = able_model("able", IMAGE)
    moves = {key: torch.full_like(value, -3e38) for key, value in able.parameters.eraser.items() if "." in key}
    eraser = {**able.parameters.eraser, **moves}
    save_model(replace(able, parameters=replace(able.parameters, eraser=eraser)), tmp_path / "able.safetensors")
    return ShardSpec(models=tmp_path, bank_bytes=1 << 20, warm_up=False)


async def test_an_erase_that_diverges_changes_nothing(wild: ShardSpec) -> None:
    async with serving(wild) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memory = await client.create_memory("a", model="able", write="stream")
        await memory.store(GONE)
        before = await memory.recognize(GONE)
        with pytest.raises(attractor.Diverged, match="the erasing loop on memory 'a' left finite numbers"):
            await memory.erase(GONE)
        assert ((await memory.recognize(GONE)).energy == before.energy).all()
        info = await memory.info()
        assert (info.version, info.patterns) == (1, 2)
        assert (await memory.store(ONE)).version == 2  # its number was free again, or passed over


async def test_erases_must_be_whole_finite_and_counted_in_full(channel: aio.Channel) -> None:
    await raw.create(channel, "a", "able")
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    gap = ONE.copy()
    gap[0, 1, 1] = np.nan
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Erase(pb.EraseRequest(memory="a", tensors=[tensor(gap)]))
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert "saw nan in pattern 0, entry 5" in raw.violation(raw.status_of(caught.value))[1]
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Erase(pb.EraseRequest(memory="a", tensors=[tensor(ONE)], sequence=1))
    assert raw.violation(raw.status_of(caught.value))[0] == "sequence"
    async with raw_session(channel) as session:
        await session.open("a", 1)
        short = pb.EraseFrame(columns=columns([1], [1], tensor(ONE)))
        (status,) = raw.failures(await session.ask(pb.SessionRequest(erase=short))).values()
        assert raw.violation(status) == ("erase.sequences", "saw 0 entries; expected 1")
    assert await raw.state(channel, "a") == (0, 0)


async def test_erases_are_forwarded(pair_of_shards: list[RunningShard]) -> None:
    there = next(f"m{n}" for n in range(99) if slot_of(f"m{n}") % 2)
    address = pair_of_shards[0].info.address
    async with attractor.connect(address, timeout_s=20, direct=False) as client:
        memory = await client.create_memory(there, model="able")
        await memory.store(GONE)
        assert await memory.erase(ONE) == attractor.EraseResult(version=2, total=1)
    async with aio.insecure_channel(address) as channel:
        stub = memory_data_pb2_grpc.MemoryDataStub(channel)
        call = stub.Erase(pb.EraseRequest(memory=there, tensors=[tensor(OTHER)]))
        assert (await call).total == 0
        assert dict(await call.trailing_metadata())[ROUTE_KEY] == pair_of_shards[1].info.address


async def test_more_patterns_than_one_write_holds_are_refused(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="able")
    with pytest.raises(attractor.InvalidRequest, match="saw 2000 patterns in one erase, which is one write"):
        await memory.erase(np.zeros((2000, 4, 4), np.float32))


@pytest.mark.parametrize("write", ["rewrite", "stream"])
@pytest.mark.parametrize("model", ["tiny", "able"])
async def test_what_a_store_keeps_is_erased_exactly_from_any_page(
    spec: ShardSpec, tmp_path: Path, write: attractor.WriteMode, model: str, random: np.random.Generator
) -> None:
    given = random.random((9, 4, 4), dtype=np.float32)
    gone = [1, 5, 8]
    async with connected(replace(spec, store_uri=uri_of(tmp_path))) as client:
        memory = await client.create_memory("a", model=model, write=write, page_patterns=4)
        await memory.store(given)
        assert (await memory.erase(given[gone])).total == 6
        for number, page in enumerate(([0, 2, 3], [4, 6, 7])):
            other = await client.create_memory(f"page {number}".replace(" ", "-"), model=model, write=write)
            await other.store(given[page])
            recall, expected = await memory.query(given[page]), await other.query(given[page])
            here = recall.page == number  # the choice of a page is the model's, and this one is crude
            assert here.any()
            assert_allclose(recall.pattern[here], expected.pattern[here], atol=1e-4)
    content = b"".join([await path.read_bytes() async for path in anyio.Path(tmp_path).iterdir()])
    assert all(given[number].tobytes() in content for number in range(9) if number not in gone)
    assert not any(given[number].tobytes() in content for number in gone)


async def test_exactly_erased_pages_come_back_as_they_were(
    spec: ShardSpec, tmp_path: Path, random: np.random.Generator
) -> None:
    given = random.random((9, 4, 4), dtype=np.float32)
    async with connected(replace(spec, store_uri=uri_of(tmp_path))) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=4)
        await memory.store(given)
        await memory.erase(given[:5])  # all of one page, and one of the next
        before = (await memory.query(given)).pattern
    async with connected(replace(spec, store_uri=uri_of(tmp_path))) as client:
        memory = client.memory("a")
        assert_allclose((await memory.query(given)).pattern, before, atol=1e-5)
        assert (await memory.store(given[:1])).total == 5
        with pytest.raises(attractor.CannotErase, match="1 of the patterns are not kept"):
            await memory.erase(given[1:2])
