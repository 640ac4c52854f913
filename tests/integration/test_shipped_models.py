"""The models that ship, as users meet them: stored, recalled from cues in part missing, recognized and erased."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.support.shards import serving

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.training.datasets.sentences import sentences
from attractor_server.training.datasets.short_texts import short_texts
from attractor_server.training.datasets.speech import FRAMES, speech

COUNT, OTHERS = 16, 400
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@pytest.fixture(scope="module", autouse=True)
def read_data() -> None:
    """Files are not for the event loop; all of these keep what they have read."""
    for data in (sentences, short_texts, speech):
        data("test")
    speech("train")


@pytest.fixture
async def client() -> AsyncIterator[attractor.AsyncClient]:
    async with (
        serving(ShardSpec(bank_bytes=1 << 24, warm_up=False)) as (shard,),
        attractor.connect(shard.info.address, timeout_s=60) as connected,
    ):
        yield connected


def distinct(values: Floats, classes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    """The first of each class: 32 patterns that can be told apart."""
    _, first = np.unique(classes, return_index=True)
    return values[first[: 2 * COUNT]]


def cosines(one: Floats, other: Floats) -> Floats:
    products: Floats = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    return products


async def test_half_an_embedding_brings_back_the_other_half(client: attractor.AsyncClient) -> None:
    data = sentences("test")
    stored = distinct(data.values, data.classes)[:COUNT]
    memory = await client.create_memory("notes", model="embedding-384")
    await memory.store(stored)
    known = np.random.default_rng(0).random(stored.shape) < 0.5
    recall = await memory.query(np.where(known, stored, np.nan), known=known)
    assert np.array_equal(recall.pattern[known], stored[known])
    assert cosines(recall.pattern, stored).mean() > 0.9 > cosines(stored * known, stored).mean()


async def test_a_key_alone_brings_back_its_value(client: attractor.AsyncClient) -> None:
    data = sentences("test")
    patterns = distinct(data.values, data.classes)
    keys, values = patterns[:COUNT], patterns[COUNT:]
    memory = await client.create_memory("pairs", model="binding-384")
    await memory.store({"key": keys, "value": values})
    recall = await memory.query({"key": keys})
    found = recall.fields["value"]
    assert (cosines(found[:, None], values[None]).argmax(1) == np.arange(COUNT)).all()


def towards_one(count: int) -> Floats:
    """Vectors of one subject: each drawn nearly half of the way towards the first."""
    data = sentences("test")
    some = data.values[np.random.default_rng(5).permutation(len(data.values))[:count]]
    drawn = 0.55 * some + 0.45 * some[:1]
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


async def test_embeddings_that_are_alike_are_recalled_and_told_from_others_that_are(
    client: attractor.AsyncClient,
) -> None:
    stored, unseen = np.split(towards_one(256), 2)
    memory = await client.create_memory("notes", model="embedding-384")
    await memory.store(stored)
    assert (await memory.info()).pages == 4
    recall = await memory.query(stored)
    found = cosines(recall.pattern[:, None], stored[None]).argmax(1)
    assert (found == np.arange(len(stored))).mean() > 0.98
    familiar, strange = [(await memory.recognize(vectors)).probability for vectors in (stored, unseen)]
    assert familiar is not None
    assert strange is not None
    assert (familiar > 0.5).mean() > 0.98
    assert (strange > 0.5).mean() < 0.06


async def test_a_key_that_is_like_others_brings_back_its_own_value(client: attractor.AsyncClient) -> None:
    keys = towards_one(32)
    values = np.roll(keys, 1, axis=0)
    memory = await client.create_memory("pairs", model="binding-384")
    await memory.store({"key": keys, "value": values})
    found = (await memory.query({"key": keys})).fields["value"]
    assert (cosines(found[:, None], values[None]).argmax(1) == np.arange(len(values))).mean() > 0.98


async def test_a_text_with_holes_comes_back_as_a_string(client: attractor.AsyncClient) -> None:
    model = await client.model("text")
    alphabet = model.fields[0].alphabet
    data = short_texts("test")
    lines = ["".join(alphabet[int(place)] for place in row) for row in distinct(data.values, data.classes)[:COUNT]]
    memory = await client.create_memory("lines", model="text")
    await memory.store(lines)
    gone = np.random.default_rng(0).random((COUNT, 64)) < 1 / 3
    cues = [
        "".join(attractor.MISSING if hole else letter for letter, hole in zip(line, holes, strict=True))
        for line, holes in zip(lines, gone, strict=True)
    ]
    recall = await memory.query(cues)
    pairs = [(found.ljust(64), line) for found, line in zip(recall.text(), lines, strict=True)]
    right = np.mean([one == other for found, line in pairs for one, other in zip(found, line, strict=True)])
    assert right > 0.95


async def test_missing_frames_of_a_sound_are_nearer_than_silence_or_the_mean(client: attractor.AsyncClient) -> None:
    data = speech("test")
    stored = distinct(data.values, data.classes)[:COUNT].reshape(COUNT, FRAMES, -1)
    memory = await client.create_memory("sounds", model="speech")
    await memory.store(stored)
    cue = stored.copy()
    cue[:, ::2] = np.nan
    recall = await memory.query(cue)
    mean = np.square(stored[:, ::2] - speech("train").values.mean(0).reshape(FRAMES, -1)[::2]).mean()
    assert np.square(recall.pattern[:, ::2] - stored[:, ::2]).mean() < 0.6 * mean


async def test_what_is_stored_is_probable_and_what_is_not_is_not(client: attractor.AsyncClient) -> None:
    data = sentences("test")
    patterns = distinct(data.values, data.classes)[:COUNT]
    others = data.values[~np.isin(data.classes, np.unique(data.classes)[:COUNT])][:OTHERS]
    assert len(others) == OTHERS
    memory = await client.create_memory("known", model="embedding-384")
    await memory.store(patterns)
    known, strange = await memory.recognize(patterns), await memory.recognize(others)
    assert known.probability is not None
    assert strange.probability is not None
    assert known.probability.min() > 0.9
    assert (strange.probability > 0.5).mean() < 0.05


async def test_erasing_takes_back_three_quarters_of_what_storing_gave_and_leaves_the_rest(
    client: attractor.AsyncClient,
) -> None:
    data = sentences("test")
    patterns = distinct(data.values, data.classes)[:COUNT]
    memory = await client.create_memory("forgetful", model="embedding-384")
    ignorant = await client.create_memory("ignorant", model="embedding-384")
    await memory.store(patterns)
    await ignorant.store(patterns[4:])
    known = np.random.default_rng(0).random(patterns.shape) < 0.5

    async def reached(one: attractor.AsyncMemory) -> Floats:
        recall = await one.query(np.where(known, patterns, np.nan), known=known)
        return cosines(recall.pattern, patterns)

    before, never = await reached(memory), await reached(ignorant)
    result = await memory.erase(patterns[:4])
    after = await reached(memory)
    assert result.total == COUNT - 4
    assert (after - never)[:4].mean() < 0.25 * (before - never)[:4].mean()
    assert after[4:].mean() > 0.9
