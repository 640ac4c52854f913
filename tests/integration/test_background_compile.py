"""A shard has programs compiled for networks without a closed form while it serves, and serves without them, too."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.quick_training import untrained
from tests.support.shards import serving
from tests.support.tiny_models import IMAGE, tiny_model

import attractor
from attractor_server.app import RunningShard
from attractor_server.energy.model_file import save_model
from attractor_server.energy.networks.mlp import MLP
from attractor_server.engine.compute import aot
from attractor_server.engine.compute.aot import Program
from attractor_server.fields import Field
from attractor_server.shard.spec import ShardSpec

SIGNS = Field(name="signs", kind="vector", shape=(24,))
PATTERNS = np.sign(np.random.default_rng(0).normal(size=(3, 24))).astype(np.float32)
WAIT_S = 300.0


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> ShardSpec:
    """Of a shard with a model whose network has no closed form, and one whose network has."""
    monkeypatch.setattr(aot, "_COMPILED", {})
    caplog.set_level(logging.INFO)
    save_model(untrained("deep", SIGNS, MLP(inputs=24, widths=(12, 11))), tmp_path / "deep.safetensors")
    save_model(tiny_model("tiny", IMAGE), tmp_path / "tiny.safetensors")
    return ShardSpec(models=tmp_path, bank_bytes=1 << 20, warm_up=True)


class Watched(Mapping[str, Program]):
    """Programs of which it is known afterwards which were asked for."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self._programs = programs
        self.asked_for: set[str] = set()

    def __getitem__(self, name: str) -> Program:
        self.asked_for.add(name)
        return self._programs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._programs)

    def __len__(self) -> int:
        return len(self._programs)


async def recalled(shard: RunningShard) -> NDArray[np.float32]:
    """What three faint patterns lead to in a new memory that has them."""
    async with attractor.connect(shard.info.address) as client:
        memory = await client.create_memory("a", model="deep")
        await memory.store(PATTERNS)
        recall = await memory.query(PATTERNS / 2)
        await client.delete_memory("a")
    return recall.pattern


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - of another thread, or process
            await anyio.sleep(0.02)


async def test_a_shard_serves_while_programs_are_compiled_and_then_answers_through_them(
    spec: ShardSpec, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(spec) as (shard,):
        before = await recalled(shard)
        assert not shard.compiling_s
        await until(lambda: "deep is read by compiled programs after" in caplog.text)
        assert shard.compiling_s.keys() == {"deep"}
        (network,) = aot._COMPILED.values()
        watched = network._programs = Watched(network._programs)
        network._limit = math.inf  # whichever is faster here
        after = await recalled(shard)
    assert watched.asked_for == set(aot.PROGRAMS)
    assert np.abs(after - before).max() < 1e-4


async def test_where_there_is_no_compiler_a_shard_says_so_and_serves(
    spec: ShardSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    async with serving(spec) as (shard,):
        await until(
            lambda: "no C++ compiler among g++, clang++, c++: deep is read without compiled programs" in caplog.text
        )
        assert np.isfinite(await recalled(shard)).all()
        assert not shard.compiling_s


async def test_where_the_compiler_fails_a_shard_says_why_and_serves(
    spec: ShardSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    async with serving(spec) as (shard,):
        await until(lambda: "deep is read without compiled programs: " in caplog.text)
        assert "compiler" in caplog.text.rpartition("without compiled programs: ")[2].casefold()
        assert np.isfinite(await recalled(shard)).all()


async def test_a_shard_that_ends_ends_the_compiling(spec: ShardSpec, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(spec) as (shard,):
        await until(lambda: "compiling what reading asks of deep" in caplog.text)
        await until(lambda: shard._compiling._child is not None)
        child = shard._compiling._child
        assert child is not None
        assert child.poll() is None
    await until(lambda: child.poll() is not None)
    assert "without compiled programs" not in caplog.text


async def test_a_shard_that_is_not_to_be_warmed_compiles_nothing(
    spec: ShardSpec, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(replace(spec, warm_up=False)) as (shard,):
        await recalled(shard)
        assert shard._compiling._child is None
    assert "compil" not in caplog.text
