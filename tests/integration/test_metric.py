"""Memories that see vectors in their own metric, over gRPC: through restarts, copies, rebuilds and erasing."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from tests.support.shards import connected, serving
from tests.support.tiny_models import IMAGE, tiny_model, whitened_model

import attractor
from attractor_server.cli.main import main
from attractor_server.energy.model_file import save_model
from attractor_server.fields import Field
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.opening import inspect_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.verify import find_faults

Vectors = NDArray[np.float32]
NOTE = Field(name="note", kind="vector", shape=(14,))
PAGE = 8


@pytest.fixture
def kept(spec: ShardSpec, tmp_path: Path) -> ShardSpec:
    save_model(whitened_model("notes", NOTE, left_out=1), tmp_path / "own" / "notes.safetensors")
    save_model(tiny_model("tiny", IMAGE), tmp_path / "own" / "tiny.safetensors")
    return replace(spec, models=tmp_path / "own", store_uri=uri_of(tmp_path / "data"))


def notes(count: int, seed: int = 0) -> Vectors:
    """Vectors with a large part in common, and more spread in some directions than in others."""
    random = np.random.default_rng(seed)
    common = 2 * np.random.default_rng(7).random(14)
    return (common + np.linspace(0.1, 1.0, 14) * random.standard_normal((count, 14))).astype(np.float32)


CUES = notes(5, seed=1)


async def ask(memory: attractor.AsyncMemory) -> Vectors:
    recall = await memory.query(CUES)
    assert isinstance(recall.pattern, np.ndarray)
    return recall.pattern


async def test_memories_of_vectors_have_their_own_metric_by_default_and_others_their_models(kept: ShardSpec) -> None:
    async with connected(kept) as client:
        made = {
            "own": await client.create_memory("own", model="notes"),
            "named": await client.create_memory("named", model="notes", metric="own"),
            "plain": await client.create_memory("plain", model="notes", metric="model"),
            "images": await client.create_memory("images", model="tiny"),
        }
        metrics = {name: (await memory.info()).settings.metric for name, memory in made.items()}
        assert metrics == {"own": "own", "named": "own", "plain": "model", "images": "model"}
        able = {model.name for model in await client.models() if model.has_metric}
        assert able == {"notes", "embedding-384", "binding-384"}
        answers = {}
        for name in ("own", "named", "plain"):
            await made[name].store(notes(PAGE + 3))
            answers[name] = await ask(made[name])
        assert_allclose(answers["own"], answers["named"], rtol=1e-5)
        assert np.abs(answers["own"] - answers["plain"]).max() > 0.01
        with pytest.raises(attractor.Conflict, match="metric is own; asked for model"):
            await client.create_memory("own", model="notes", metric="model")
        with pytest.raises(attractor.InvalidRequest, match=r"metric: saw 'cosine'; expected one of \['own', 'model'\]"):
            await client.create_memory("new", model="notes", metric="cosine")  # type: ignore[arg-type]


async def test_the_metric_outlives_the_server_and_goes_along_with_copies(kept: ShardSpec, tmp_path: Path) -> None:
    path = tmp_path / "notes.memory"
    async with connected(kept) as client:
        memory = await client.create_memory("a", model="notes")
        for part in np.split(notes(2 * PAGE + 3), [1, 5, 17]):
            await memory.store(part)
        before = await ask(memory)
        await memory.snapshot("first")
        await memory.fork("fork")
        await memory.export(path)
        await client.import_memory(path, name="imported")
    async with connected(kept) as client:
        for name in ("a", "fork", "imported"):
            assert (await client.memory(name).info()).settings.metric == "own"
            assert_allclose(await ask(client.memory(name)), before, rtol=1e-3, atol=1e-4)
        memory = client.memory("a")
        await memory.rebuild(metric="model")
        assert np.abs(await ask(memory) - before).max() > 0.01
        await memory.restore("first")
        assert (await memory.info()).settings.metric == "own"
        assert_allclose(await ask(memory), before, rtol=1e-3, atol=1e-4)
    assert await anyio.to_thread.run_sync(find_faults_in, kept) == []


def find_faults_in(spec: ShardSpec) -> list[str]:
    with inspect_store(spec.store_uri) as view:
        return [str(fault) for fault in find_faults(view, Counter())]


async def test_what_is_erased_leaves_the_metric_as_if_it_had_never_been_stored(kept: ShardSpec) -> None:
    given = notes(2 * PAGE)
    async with connected(kept) as client:
        memory, other = [await client.create_memory(name, model="notes") for name in ("a", "b")]
        await memory.store(given[:PAGE])
        await memory.store(given[PAGE:])
        await memory.erase(given[2:4])
        await other.store(np.delete(given[:PAGE], [2, 3], 0))
        own = await client.create_memory("c", model="notes")
        await own.store(given[PAGE:])
        pages = (await memory.query(CUES)).page
        answers = {0: await ask(other), 1: await ask(own)}
        expected = np.stack([answers[int(page)][row] for row, page in enumerate(pages)])
        assert_allclose(await ask(memory), expected, rtol=1e-3, atol=1e-4)


async def test_a_memory_of_before_is_told_of_and_gets_its_metric_by_being_rebuilt(kept: ShardSpec) -> None:
    async with serving(kept) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memory = await client.create_memory("old", model="notes", metric="model")
        new = await client.create_memory("new", model="notes")
        for one in (memory, new):
            await one.store(notes(PAGE))

        async def run(*command: str) -> str:
            asked = [*command, "--server", shard.info.address]
            return (await anyio.to_thread.run_sync(partial(CliRunner().invoke, main, asked))).output

        assert "attractor memory rebuild old --metric own" in await run("memory", "show", "old")
        assert "rebuild" not in await run("memory", "show", "new")
        assert "'old' for one: `attractor memory rebuild old --metric own`" in await run("doctor", "--durable", "no")
        await run("memory", "rebuild", "old", "--metric", "own")
        assert (await memory.info()).settings.metric == "own"
        assert "metric own" not in await run("doctor", "--durable", "no")
        assert_allclose(await ask(memory), await ask(new), rtol=1e-3, atol=1e-4)
