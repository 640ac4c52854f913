"""Memories of a model that was retrained, or taken away, still find it: its file is in the artifact store."""

from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest
from numpy.testing import assert_allclose
from tests.support.shards import connected
from tests.support.tiny_models import IMAGE, KEY, tiny_model

import attractor
from attractor_server.energy.model_file import save_model
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

IMAGES = np.random.default_rng(0).random((5, *IMAGE.shape), dtype=np.float32)


@pytest.fixture
def durable(spec: ShardSpec, tmp_path: Path) -> ShardSpec:
    return replace(spec, store_uri=uri_of(tmp_path / "data"), artifacts=tmp_path / "artifacts")


async def recalled(spec: ShardSpec) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """What a new memory `a` of the model tiny recalls."""
    async with connected(spec) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=4)
        await memory.store(IMAGES)
        return (await memory.query(IMAGES)).pattern


def retrained(folder: Path) -> Path:
    """A folder with another model of that name, and of other fields."""
    folder.mkdir()
    save_model(tiny_model("tiny", KEY, seed=5), folder / "tiny.safetensors")
    return folder


async def test_a_memory_of_a_retrained_model_goes_on_with_the_one_it_was_made_from(
    durable: ShardSpec, tmp_path: Path
) -> None:
    before = await recalled(durable)
    newer = replace(durable, models=await anyio.to_thread.run_sync(retrained, tmp_path / "newer"))
    async with connected(newer) as client:
        memory = client.memory("a")
        assert_allclose((await memory.query(IMAGES)).pattern, before, rtol=1e-5, atol=1e-5)
        assert (await memory.store(IMAGES[:1])).total == 6
        assert (await memory.info()).model.startswith("tiny@")
        assert [model.name for model in await client.models()].count("tiny") == 1
        await memory.snapshot("now")
        now = (await memory.query(IMAGES)).pattern
        await memory.store(IMAGES[:1])
        await memory.restore("now")
        assert_allclose((await memory.query(IMAGES)).pattern, now, rtol=1e-5, atol=1e-5)
        other = await client.create_memory("b", model="tiny")
        await other.store(np.zeros((1, *KEY.shape), np.float32))
        with pytest.raises(attractor.AttractorError, match="exists and was made from model tiny@"):
            await client.create_memory("a", model="tiny", page_patterns=4)


async def test_a_memory_of_a_model_that_was_taken_away_goes_on(durable: ShardSpec) -> None:
    before = await recalled(durable)
    async with connected(replace(durable, models=None)) as client:
        assert_allclose((await client.memory("a").query(IMAGES)).pattern, before, rtol=1e-5, atol=1e-5)
        assert "tiny" not in [model.name for model in await client.models()]


async def test_a_model_that_is_damaged_in_the_artifact_store_is_told_and_others_go_on(
    durable: ShardSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await recalled(durable)
    await anyio.to_thread.run_sync(_damage, tmp_path / "artifacts")
    async with connected(replace(durable, models=None)) as client:
        with pytest.raises(attractor.AttractorError, match="memory 'a' was made from model tiny"):
            await client.memory("a").query(IMAGES)
        assert await client.models()
    assert "memories of model tiny" in caplog.text


def _damage(artifacts: Path) -> None:
    for path in artifacts.glob("models/*"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
