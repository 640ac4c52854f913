"""Kept patterns take part in recall, through SDK and server: with probabilities, matches, and the network alone."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest
from click.testing import CliRunner
from grpc import aio
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from tests.support.raw import tensor
from tests.support.shards import connected, serving

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.training.datasets.sentences import sentences

Vectors = NDArray[np.float32]
STORED, OTHERS = 40, 40
"""Of which a page of `embedding-384` takes 32"""


@pytest.fixture(scope="module")
def notes() -> Vectors:
    """Sentences of which each is another one."""
    data = sentences("test")
    _, first = np.unique(data.classes, return_index=True)
    return np.asarray(data.values[first[: STORED + OTHERS]], np.float32)


@pytest.fixture
def kept(tmp_path: Path) -> ShardSpec:
    return ShardSpec(bank_bytes=1 << 24, warm_up=False, store_uri=uri_of(tmp_path / "data"))


@pytest.fixture
async def client(kept: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with connected(kept) as connected_client:
        yield connected_client


def distort(values: Vectors) -> Vectors:
    random = np.random.default_rng(3)
    return np.asarray(values + 0.03 * random.standard_normal(values.shape), np.float32)


async def test_a_distorted_cue_brings_back_the_very_vector_and_a_strange_one_is_called_unknown(
    client: attractor.AsyncClient, notes: Vectors
) -> None:
    memory = await client.create_memory("notes", model="embedding-384")
    await memory.store(notes[:STORED], ids=[f"note {n}" for n in range(STORED)])
    cues = distort(notes)
    recall, network = await memory.query(cues, match=3), await memory.query(cues, kept=False)
    # What was stored, by the kept patterns
    assert recall.probability is not None
    assert recall.match is not None
    assert recall.match.probability is not None
    assert isinstance(recall.match.id, list)
    assert [ids[0] for ids in recall.match.id[:STORED]] == [f"note {n}" for n in range(STORED)]
    assert_array_equal(recall.match.pattern[:STORED, 0], notes[:STORED])
    assert_array_equal(recall.page[:STORED], np.arange(STORED) // 32)
    assert np.abs(recall.pattern[:STORED] - notes[:STORED]).max() < 1e-2
    assert (recall.match.distance[:STORED, 0] < recall.match.distance[:STORED, 1]).all()
    assert (recall.probability[:STORED] > 0.5).mean() > 0.95
    assert (recall.probability[STORED:] > 0.5).mean() < 0.1
    assert (recall.match.probability.sum(1) <= recall.probability + 1e-5).all()
    # By the network alone
    assert network.probability is None
    errors = [np.square(one.pattern[:STORED] - notes[:STORED]).mean() for one in (recall, network)]
    assert errors[0] < 0.01 * errors[1]
    # The same for one cue, and for who asks for no answer
    one = await memory.query(cues[5], match=True)
    assert one.match is not None
    assert one.probability is not None
    assert (one.match.id, one.match.pattern.shape, one.probability.shape) == ("note 5", (384,), ())
    several = (await memory.query(cues[5], match=3)).match
    assert several is not None
    assert (several.id, several.pattern.shape, several.distance.shape) == (recall.match.id[5], (3, 384), (3,))
    known, guessed = await memory.recognize(cues), await memory.recognize(cues, kept=False)
    assert known.probability is not None
    assert guessed.probability is not None
    assert_allclose(known.probability, recall.probability, atol=1e-4)
    assert np.abs(guessed.probability - recall.probability).max() > 1e-3


async def test_copies_and_a_later_server_answer_alike_and_each_memory_by_its_setting(
    kept: ShardSpec, notes: Vectors
) -> None:
    cues = distort(notes[:8])
    async with connected(kept) as client:
        memory = await client.create_memory("notes", model="embedding-384")
        await memory.store(notes[:20])
        await memory.snapshot("before")
        fork = await memory.fork("fork")
        await memory.erase(notes[:1])
        first, alike = await memory.query(cues, match=1), await fork.query(cues, match=1)
        await memory.restore("before")
        again = await memory.query(cues, match=1)
    answers = [one.match.pattern for one in (first, alike, again) if one.match is not None]
    assert [(one == notes[:8]).all(1).sum() for one in answers] == [7, 8, 8]
    async with connected(kept) as client:
        memory = client.memory("notes")
        assert_allclose((await memory.query(cues)).pattern, again.pattern, atol=1e-4)
        alone = await client.create_memory("alone", model="embedding-384", recall="network")
        await alone.store(notes[:20])
        assert (await alone.info()).settings.recall == "network"
        by_network, beside = await alone.query(cues), await alone.query(cues, kept=True)
    assert by_network.probability is None
    assert beside.probability is not None
    assert_allclose(by_network.pattern, (await _ask_alone(kept, cues)).pattern, atol=1e-4)


async def _ask_alone(kept: ShardSpec, cues: Vectors) -> attractor.Recall:
    async with connected(kept) as client:
        return await client.memory("notes").query(cues, kept=False)


async def test_what_cannot_be_meant_is_refused_by_name(kept: ShardSpec, notes: Vectors) -> None:
    async with serving(kept) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        async with attractor.connect(shard.info.address) as client:
            memory = await client.create_memory("notes", model="embedding-384")
            await memory.store(notes[:4])
            with pytest.raises(attractor.InvalidRequest, match="match: saw 1025; expected False, True, or 1 to 1024"):
                await memory.query(notes[0], match=1025)
            with pytest.raises(attractor.InvalidRequest, match="recall: saw 'both'; expected one of"):
                await client.create_memory("other", model="embedding-384", recall="both")  # type: ignore[arg-type]
            result = await anyio.to_thread.run_sync(
                partial(CliRunner().invoke, main, ["memory", "show", "notes", "--server", shard.info.address])
            )
            assert "recall        posterior" in result.output
        stub = memory_data_pb2_grpc.MemoryDataStub(channel)
        cues = [tensor(notes[:2])]
        for request, message in (
            (pb.QueryRequest(memory="notes", tensors=cues, match=True, matches=1025), "matches: saw 1025; expected 0"),
            (pb.QueryRequest(memory="notes", tensors=cues, matches=2), "matches: saw 2; expected 0, without `match`"),
            (pb.QueryRequest(memory="notes", tensors=cues, recall=9), "recall: saw 9; expected"),  # type: ignore[arg-type]
        ):
            with pytest.raises(aio.AioRpcError, match=message):
                await stub.Query(request)
        response = await stub.Query(pb.QueryRequest(memory="notes", tensors=cues, match=True, matches=6))
        assert (response.matches.each, len(response.matches.distances), len(response.scores.probability)) == (6, 12, 2)
        assert np.isinf(response.matches.distances[4:6]).all()  # there are no more than four
