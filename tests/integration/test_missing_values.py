"""Cues with entries that nobody knows: they begin at the mean of the training data."""

import anyio.to_thread
import numpy as np
import pytest
from grpc import StatusCode, aio
from numpy.typing import NDArray
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor, values_of

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.app import RunningShard

MEAN = 0.5
"""Of the data of the models here: their transform makes it 0"""
Floats = NDArray[np.float32]


def floats(random: np.random.Generator, *shape: int) -> Floats:
    return random.random(shape, dtype=np.float32)


@pytest.fixture
async def pairs(client: attractor.AsyncClient, random: np.random.Generator) -> attractor.AsyncMemory:
    memory = await client.create_memory("pairs", model="pair")
    await memory.store({"key": floats(random, 3, 8), "value": floats(random, 3, 6)})
    return memory


async def test_a_field_that_is_left_out_begins_at_the_mean_and_is_answered(
    pairs: attractor.AsyncMemory, random: np.random.Generator
) -> None:
    key, mean = floats(random, 2, 8), np.full((2, 6), MEAN, np.float32)
    short, long = await pairs.query({"key": key}, known=False), await pairs.query({"key": key, "value": mean})
    other = await pairs.query({"key": key, "value": mean + 1})
    assert set(short.fields) == {"key", "value"}
    assert (short.fields["value"] == long.fields["value"]).all()
    assert (short.fields["value"] != mean).any()
    assert (short.energy_before == long.energy_before).all()
    assert (short.energy_before != other.energy_before).all()
    by_value = await pairs.recognize({"value": floats(random, 2, 6)})
    assert np.isfinite(by_value.delta_energy).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
async def test_nan_in_a_cue_begins_at_the_mean_and_never_comes_back(
    pairs: attractor.AsyncMemory, dtype: "type[np.floating]", random: np.random.Generator
) -> None:
    key, value = floats(random, 2, 8).astype(dtype), floats(random, 2, 6).astype(dtype)
    gaps, mean = key.copy(), key.copy()
    gaps[0, 2:5], mean[0, 2:5] = np.nan, MEAN
    with_gaps = await pairs.query({"key": gaps, "value": value}, known=False, trajectory=True)
    with_mean = await pairs.query({"key": mean, "value": value}, trajectory=True)
    for name in ("key", "value"):
        assert (with_gaps.fields[name] == with_mean.fields[name]).all()
    assert with_gaps.trajectory is not None
    assert (with_gaps.trajectory.fields["key"][0, 0, 2:5] == MEAN).all()
    familiar = [(await pairs.recognize({"key": cue, "value": value})).energy for cue in (gaps, mean, key)]
    assert (familiar[0] == familiar[1]).all()
    assert familiar[0][0] != familiar[2][0]


async def test_all_that_a_cue_with_gaps_gives_is_held_and_a_cue_without_is_free(
    pairs: attractor.AsyncMemory, random: np.random.Generator
) -> None:
    key, value = floats(random, 3, 8), floats(random, 3, 6)
    key[0, 2:5] = value[1, 0] = np.nan
    recall = await pairs.query({"key": key, "value": value})
    given = {"key": ~np.isnan(key), "value": ~np.isnan(value)}
    masks = {name: one & np.array([[True], [True], [False]]) for name, one in given.items()}
    said = await pairs.query({"key": key, "value": value}, known=masks)
    nothing_held = await pairs.query({"key": key, "value": value}, known=False)
    for name, cue in (("key", key), ("value", value)):
        assert (recall.fields[name] == said.fields[name]).all()
        assert (recall.fields[name][:2] == cue[:2])[given[name][:2]].all()
        assert (nothing_held.fields[name][:2] != cue[:2]).all()
        np.testing.assert_allclose(recall.fields[name][2], nothing_held.fields[name][2], atol=1e-6)
    left_out = await pairs.query({"value": value[2]})
    assert (left_out.fields["value"] == value[2]).all()
    assert ((await pairs.query({"value": value[2]}, known=False)).fields["value"] != value[2]).all()


async def test_streams_and_the_synchronous_client_hold_the_same(
    pairs: attractor.AsyncMemory, shard: RunningShard, random: np.random.Generator
) -> None:
    value = floats(random, 6)
    value[1] = np.nan
    held, free = [await pairs.query({"value": value}, known=known) for known in (None, False)]
    items: list[attractor.Patterns | attractor.Cue] = [
        attractor.Cue({"value": value}),
        {"value": value},
        attractor.Cue({"value": value}, known=False),
    ]
    async with pairs.stream() as stream:
        found = [one.fields["value"] async for one in stream.query(items)]
        let_go = [one.fields["value"] async for one in stream.query(items[:2], known=False)]

    def ask() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with attractor.Client(shard.info.address) as client:
            memory = client.memory("pairs")
            one, other = memory.query({"value": value}), memory.query({"value": value}, known=False)
            return one.fields["value"], other.fields["value"]

    at_once, freely = await anyio.to_thread.run_sync(ask)
    for one in (*found[:2], at_once):
        np.testing.assert_allclose(one, held.fields["value"], atol=1e-6)
    for one in (found[2], *let_go, freely):
        np.testing.assert_allclose(one, free.fields["value"], atol=1e-6)
    assert (held.fields["value"] != free.fields["value"]).any()


async def test_what_is_known_beside_a_gap_is_held(pairs: attractor.AsyncMemory, random: np.random.Generator) -> None:
    key = floats(random, 2, 8)
    key[:, 0] = np.nan
    recall = await pairs.query({"key": key}, known={"key": ~np.isnan(key)})
    assert (recall.fields["key"][:, 1:] == key[:, 1:]).all()
    assert np.isfinite(recall.fields["key"]).all()


@pytest.mark.parametrize(
    ("cues", "known", "field", "seen"),
    [
        ({"key": [np.nan] * 8}, None, "query.columns.tensors", "saw no value in pattern 0; expected at least one"),
        ({"key": [np.inf] + [0.0] * 7}, None, "query.columns.tensors[key]", "saw inf in pattern 0, entry 0"),
        ({"key": [np.nan, -np.inf] + [0.0] * 6}, None, "query.columns.tensors[key]", "saw -inf in pattern 0, entry 1"),
        ({"key": [np.nan] * 7 + [1e7]}, None, "query.columns.tensors[key]", "saw values from 1e+07 to 1e+07"),
        (
            {"key": [0.0] * 7 + [np.nan]},
            {"key": np.arange(8) == 7},
            "query.columns.tensors[key].known",
            "saw a missing value marked as known in pattern 0, entry 7",
        ),
    ],
)
async def test_cues_that_cannot_be_meant_are_refused_by_name(
    pairs: attractor.AsyncMemory, cues: attractor.Patterns, known: attractor.Patterns | None, field: str, seen: str
) -> None:
    with pytest.raises(attractor.InvalidRequest) as caught:
        await pairs.query(cues, known=known)
    ((where, said),) = caught.value.violations
    assert where == field
    assert seen in said


async def test_stores_take_no_gap(pairs: attractor.AsyncMemory, random: np.random.Generator) -> None:
    gap = floats(random, 8)
    gap[3] = np.nan
    with pytest.raises(attractor.InvalidRequest, match="saw nan in pattern 0, entry 3"):
        await pairs.store({"key": gap, "value": floats(random, 6)})
    with pytest.raises(attractor.InvalidRequest, match=r"saw the fields \['key'\]"):
        await pairs.store({"key": floats(random, 8)})
    assert (await pairs.info()).version == 1


async def test_a_cue_without_any_tensor_is_refused_in_both_ways(channel: aio.Channel) -> None:
    await raw.create(channel, "a", "pair")
    with pytest.raises(aio.AioRpcError) as caught:
        await memory_data_pb2_grpc.MemoryDataStub(channel).Query(pb.QueryRequest(memory="a"))
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert "expected at least one of the fields ['key', 'value']" in raw.violation(raw.status_of(caught.value))[1]
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.RecognizeFrame(columns=columns([1], [1]))
        (status,) = raw.failures(await session.ask(pb.SessionRequest(recognize=frame))).values()
        assert raw.violation(status)[0] == "recognize.columns.tensors"


async def test_a_unary_call_may_leave_fields_out_too(channel: aio.Channel, random: np.random.Generator) -> None:
    await raw.create(channel, "a", "pair")
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    key, mean = tensor(floats(random, 2, 8), field="key"), tensor(np.full((2, 6), MEAN, np.float32), field="value")
    short = await stub.Query(pb.QueryRequest(memory="a", tensors=[key]))
    assert short == await stub.Query(pb.QueryRequest(memory="a", tensors=[key, mean]))
    assert [one.field for one in short.tensors] == ["key", "value"]
    asked = pb.RecognizeRequest(memory="a", tensors=[mean])
    assert len((await stub.Recognize(asked)).energy) == 2


async def test_cues_without_a_mask_are_answered_as_alone_by_a_frame_with_masked_ones(
    channel: aio.Channel, client: attractor.AsyncClient, random: np.random.Generator
) -> None:
    """Of two pages that may have such a cue both are read; for held cues one is enough."""
    memory = await client.create_memory("a", model="able", page_patterns=4)
    await memory.store(floats(random, 4, 4, 4))
    await memory.store(floats(random, 4, 4, 4))
    cues, masks = floats(random, 96, 4, 4), np.zeros((96, 4, 4), np.bool_)
    masks[64:, :2] = True
    alone = await memory.query(cues[:64], known=False)
    async with raw_session(channel) as session:
        await session.open("a", 1)
        asked = pb.RequestColumns(request_ids=[1, 2], handles=[1, 1], patterns=[64, 32])
        asked.tensors.append(tensor(cues, known=masks))
        await session.send(pb.SessionRequest(query=pb.QueryFrame(columns=asked)))
        found: dict[int, Floats] = {}
        while len(found) < 2:
            answer = (await session.receive()).recalled
            starts = np.cumsum([0, *answer.patterns][:-1])
            found |= zip(answer.request_ids, np.split(values_of(answer.tensors[0]), starts[1:]), strict=True)
    np.testing.assert_allclose(found[1], alone.pattern, atol=1e-5)
    assert (found[2][:, :2] == cues[64:, :2]).all()
    assert len(set(alone.page)) == 2


async def test_cues_with_gaps_are_forwarded(pair_of_shards: list[RunningShard]) -> None:
    async with attractor.connect(pair_of_shards[0].info.address, timeout_s=20, direct=False) as client:
        for n in range(8):  # some of them are the other shard's
            memory = await client.create_memory(f"m{n}", model="pair")
            recall = await memory.query({"value": np.array([[0.1, np.nan] * 3] * 2, np.float32)})
            assert np.isfinite(recall.fields["key"]).all()
