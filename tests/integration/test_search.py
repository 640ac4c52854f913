"""Search: the items that a cue means, with the probability of each, in one memory or in all under a prefix."""

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from tests.support.identities import ROOT, write_identities
from tests.support.shards import connected, serving
from tests.support.tiny_models import images

import attractor
from attractor_server.shard.spec import ShardSpec

MODEL = "binary-128"
"""Of vectors of signs"""

METRIC = "embedding-384"
"""Each of its pages sees vectors in a metric of its own"""

PAGE = 8
COUNT = 3 * PAGE + 2

Vectors = NDArray[np.float32]


def signs(count: int = COUNT, seed: int = 7) -> Vectors:
    drawn: Vectors = np.random.default_rng(seed).choice([-1.0, 1.0], (count, 128)).astype(np.float32)
    return drawn


def near(vector: Vectors, seed: int = 3) -> Vectors:
    """A cue of that vector, of which a tenth of the signs are others."""
    found: Vectors = np.where(np.random.default_rng(seed).random(vector.shape) < 0.1, -vector, vector)
    return found


def directions(count: int = COUNT, seed: int = 7) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((count, 384)).astype(np.float32)
    normal: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return normal


async def filled(
    client: attractor.AsyncClient, name: str, given: Vectors, *, model: str = MODEL
) -> attractor.AsyncMemory:
    memory = await client.create_memory(name, model=model, page_patterns=PAGE)
    ids = [f"i{n}" for n in range(len(given))]
    await memory.store(given, ids=ids, payloads=[{"n": n, "odd": bool(n % 2)} for n in range(len(given))])
    return memory


@pytest.fixture
async def client(durable: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with connected(durable) as client:
        yield client


@pytest.mark.parametrize("model", [MODEL, METRIC])
async def test_what_a_cue_means_is_found_with_the_probability_that_a_query_has(
    client: attractor.AsyncClient, model: str
) -> None:
    given = signs() if model == MODEL else directions()
    memory = await filled(client, "a", given, model=model)
    cues = [near(given[11]), signs(1, seed=99)[0] if model == MODEL else directions(1, seed=99)[0]]
    for cue in cues:
        found, recall = await memory.search(cue, k=5, values=True), await memory.query(cue, match=5, known=False)
        assert recall.match is not None
        assert recall.match.probability is not None
        assert recall.probability is not None
        assert [hit.id for hit in found.hits] == recall.match.id
        assert [hit.probability for hit in found.hits] == pytest.approx(recall.match.probability.tolist(), abs=1e-4)
        assert found.known == pytest.approx(float(recall.probability), abs=1e-4)
        assert sorted((hit.score for hit in found.hits), reverse=True) == [hit.score for hit in found.hits]
        assert found.total == COUNT
    best = (await memory.search(cues[0], values=True)).hits[0]
    assert (best.id, best.payload, best.page, best.memory) == ("i11", {"n": 11, "odd": True}, 1, "a")
    assert_array_equal(best.values, given[11])
    assert best.created is not None
    half = cues[0].copy()
    half[: len(half) // 2] = np.nan
    found, recall = await memory.search(half, k=5), await memory.query(half, match=5)
    assert recall.match is not None
    assert recall.match.probability is not None
    assert [hit.id for hit in found.hits] == recall.match.id
    assert [hit.probability for hit in found.hits] == pytest.approx(recall.match.probability.tolist(), abs=1e-4)
    without = await memory.search(cues[0], k=1)
    assert (len(without.hits), without.hits[0].values) == (1, None)


async def test_all_items_are_ranked_however_many_pages_they_are_in(client: attractor.AsyncClient) -> None:
    given = directions()
    memory = await filled(client, "a", given, model=METRIC)
    for found in (await memory.search(given[0], k=1000), by_cue := await memory.search(given[0], k=1000, by="cue")):
        assert len({hit.id for hit in found.hits}) == COUNT
        assert found.hits[0].id == "i0"
        assert all(hit.distance is not None and 0 <= hit.distance <= 2 for hit in found.hits)
    assert by_cue.hits[0].distance == pytest.approx(0, abs=1e-3)
    assert [hit.score for hit in by_cue.hits] == pytest.approx([1 - (hit.distance or 0) for hit in by_cue.hits])


async def test_a_filter_is_applied_before_items_are_ranked(client: attractor.AsyncClient) -> None:
    given = signs()
    memory = await filled(client, "a", given)
    cue = near(given[11])
    found = await memory.search(cue, k=4, filter={"odd": False, "n": {"$lt": 20}})
    assert found.total == 10
    assert found.known < 0.5
    assert all(hit.payload["n"] % 2 == 0 for hit in found.hits)
    assert len(found.hits) == 4
    assert (await memory.search(cue, filter={"odd": True})).hits[0].id == "i11"
    nothing = await memory.search(cue, filter={"n": 99})
    assert (len(nothing.hits), nothing.known, nothing.total) == (0, 0.0, 0)


async def test_an_id_of_several_patterns_is_found_once_with_the_sum_of_their_probabilities(
    client: attractor.AsyncClient,
) -> None:
    given = signs(9)
    given[8] = given[3]  # the same twice, in different pages: either is meant
    memory = await client.create_memory("a", model=MODEL, page_patterns=PAGE)
    await memory.store(given, ids=[*"abcdefgh", "d"], payloads=list(range(9)))
    apart = await client.create_memory("b", model=MODEL, page_patterns=PAGE)
    await apart.store(given, ids=[*"abcdefghi"], payloads=list(range(9)))
    cue = near(given[3])
    found, both = await memory.search(cue, k=9), await apart.search(cue, k=9)
    assert sorted(hit.id for hit in found.hits) == [*"abcdefgh"]
    assert found.hits[0].id == "d"
    parts = [hit.probability for hit in both.hits if hit.id in "di"]
    assert found.hits[0].probability == pytest.approx(sum(parts), abs=1e-4)
    assert found.total == 9


async def test_a_search_sees_what_was_written_before_it(client: attractor.AsyncClient) -> None:
    given = signs(6)
    memory = await client.create_memory("a", model=MODEL)
    empty = await memory.search(given[0])
    assert (len(empty.hits), empty.known, empty.total) == (0, 0.0, 0)
    await memory.store(given[:4], ids=[*"abcd"])
    assert (await memory.search(given[1])).hits[0].id == "b"
    await memory.items.erase("b")
    assert "b" not in [hit.id for hit in (await memory.search(given[1])).hits]
    await memory.store(given[4], ids="c", on_conflict="replace")
    assert (await memory.search(given[4])).hits[0].id == "c"
    assert (await memory.search(given[2])).known < 0.5


async def test_a_model_without_a_posterior_ranks_by_the_cue(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("a", model="tiny", page_patterns=4)
    given = images(6)
    await memory.store(given, ids=[*"abcdef"])
    found = await memory.search(given[2], k=3)
    assert [found.hits[0].id, len(found.hits)] == ["c", 3]
    assert math.isnan(found.known)
    assert all(math.isnan(hit.probability) for hit in found.hits)
    assert found.hits[0].score == pytest.approx(1, abs=1e-3)
    parts = await client.create_memory("b", model="pair")
    await parts.store({"key": np.eye(8, dtype=np.float32)[:3], "value": np.ones((3, 6), np.float32)}, ids=[*"xyz"])
    two = await parts.search({"key": np.eye(8, dtype=np.float32)[1]}, k=1, values=True)
    assert two.hits[0].id == "y"
    assert isinstance(two.hits[0].values, dict)


async def test_memories_under_a_prefix_are_searched_together_on_whatever_shard_they_are(durable: ShardSpec) -> None:
    given = signs(4 * 6)
    async with serving(durable, 2) as (shard, _), attractor.connect(shard.info.address) as client:
        for n, name in enumerate(["users/a/x", "users/a/y", "users/a/z", "users/b/x"]):
            await filled(client, name, given[6 * n : 6 * n + 6])
        await client.create_memory("users/a/images", model="tiny")
        found = await client.search("users/a/", near(given[8]), k=5, values=True)
        assert (found.hits[0].memory, found.hits[0].id) == ("users/a/y", "i2")
        assert_array_equal(found.hits[0].values, given[8])
        assert (found.total, found.memories, len(found.hits)) == (18, 3, 5)
        assert found.known > 0.9
        assert sum(hit.probability for hit in found.hits) <= found.known + 1e-6
        alone = await client.memory("users/a/y").search(near(given[8]), k=1)
        assert found.hits[0].score == pytest.approx(alone.hits[0].score, rel=1e-4)
        other = await client.search("users/a/", near(given[20]))
        assert other.known < 0.5
        assert "users/b/x" not in {hit.memory for hit in other.hits}
        assert (await client.search("users/c/", given[0])).memories == 0
        with pytest.raises(attractor.InvalidRequest, match=r"search\.tensors"):
            await client.search("users/a/", np.ones(3, np.float32))


async def test_what_may_not_be_read_is_not_searched_under_a_prefix(on_disk: ShardSpec, tmp_path: Path) -> None:
    given, file = signs(4), tmp_path / "identities.toml"
    tokens = await write_identities(file, {**ROOT, "ada": ["users/ada/*:read"]})
    async with serving(replace(on_disk, identities=file)) as (shard,):
        async with attractor.connect(shard.info.address, token=tokens["root"]) as client:
            for name, vector in (("users/ada/x", given[0]), ("users/bob/x", given[1])):
                await (await client.create_memory(name, model=MODEL)).store(vector, ids="one")
        async with attractor.connect(shard.info.address, token=tokens["ada"]) as client:
            found = await client.search("users/", given[1])
            assert [hit.memory for hit in found.hits] == ["users/ada/x"]
            assert (found.memories, found.total) == (1, 1)
            assert found.known < 0.5
            assert (await client.search("users/bob/", given[1])).memories == 0


async def test_what_cannot_be_searched_for_is_refused_by_name(client: attractor.AsyncClient, spec: ShardSpec) -> None:
    memory = await filled(client, "a", signs(2))
    cue = signs(1)[0]
    for arguments, message in (
        ({"k": 0}, "k: saw 0; expected 1 to 1000"),
        ({"k": 1001}, "k: saw 1001; expected 1 to 1000"),
        ({"by": "words"}, "by: saw 'words'; expected one of posterior, cue"),
        ({"filter": {"n": {"$like": 1}}}, r"filter\['n'\]: saw '\$like'"),
        ({"cue": signs(2)}, "cue: saw a batch of 2; expected a single cue"),
    ):
        with pytest.raises(attractor.InvalidRequest, match=message):
            await memory.search(**{"cue": cue, **arguments})
    with pytest.raises(attractor.MemoryNotFound):
        await client.memory("nothing").search(cue)
    async with connected(spec) as other:
        fleeting = await other.create_memory("a", model="tiny")
        with pytest.raises(attractor.NotKept, match="search: this server keeps no patterns"):
            await fleeting.search(images(1)[0])
