"""A page whose image is damaged is written anew from its patterns where these are kept, and named in any case."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from tests.support.shards import connected
from tests.support.tiny_models import IMAGE

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage import offload
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.opening import inspect_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.verify import find_faults

PAGE, PAGES = 4, 2
GIVEN = np.random.default_rng(0).random((PAGES * PAGE + 1, *IMAGE.shape), dtype=np.float32)


@pytest.fixture
def kept(spec: ShardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSpec:
    """All images are files."""
    monkeypatch.setattr(offload, "LARGE_BYTES", 0)
    return replace(spec, store_uri=uri_of(tmp_path / "data"), artifacts=tmp_path / "artifacts")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


async def damage(spec: ShardSpec, damaging: Callable[[Path], None]) -> None:
    """Damages all images."""
    await anyio.to_thread.run_sync(_damage, spec, damaging)


def _damage(spec: ShardSpec, damaging: Callable[[Path], None]) -> None:
    assert isinstance(spec.artifacts, Path)
    images = [path for path in spec.artifacts.glob("images/*/*") if path.is_file()]
    assert len(images) == PAGES
    for path in images:
        damaging(path)


async def faults(spec: ShardSpec) -> list[str]:
    """What `attractor verify` says."""
    return await anyio.to_thread.run_sync(_faults, spec)


def _faults(spec: ShardSpec) -> list[str]:
    assert spec.artifacts is not None
    with inspect_store(spec.store_uri) as view:
        return [str(fault) for fault in find_faults(view, Counter(), Artifacts(spec.artifacts))]


async def filled(
    client: attractor.AsyncClient, write: Literal["rewrite", "stream"], retain: Literal["all", "open_page"]
) -> NDArray[np.float32]:
    """What the memory recalls."""
    memory = await client.create_memory("a", model="tiny", write=write, page_patterns=PAGE, retain=retain)
    for pattern in GIVEN:
        await memory.store(pattern[None])
    return (await memory.query(GIVEN)).pattern


@pytest.mark.parametrize("write", ["rewrite", "stream"])
@pytest.mark.parametrize("damaging", [cut, flip, Path.unlink])
async def test_a_page_is_written_anew_from_its_patterns_until_the_memory_is_rebuilt(
    kept: ShardSpec,
    caplog: pytest.LogCaptureFixture,
    damaging: Callable[[Path], None],
    write: Literal["rewrite", "stream"],
) -> None:
    async with connected(kept) as client:
        before = await filled(client, write, "all")
    await damage(kept, damaging)
    async with connected(kept) as client:
        memory = client.memory("a")
        recall = await memory.query(GIVEN, match=True)
        assert_allclose(recall.pattern, before, rtol=1e-4, atol=1e-4)
        assert f"memory 'a', page {PAGES - 1} is written anew from its patterns" in caplog.text
        assert "images/" in caplog.text
        assert len(await faults(kept)) == PAGES
        assert (await memory.store(GIVEN[:1])).version == len(GIVEN) + 1
        await memory.rebuild()
        assert await faults(kept) == []


async def test_an_export_of_a_memory_with_damaged_images_brings_back_all_of_it(kept: ShardSpec, tmp_path: Path) -> None:
    async with connected(kept) as client:
        before = await filled(client, "stream", "all")
    await damage(kept, flip)
    async with connected(kept) as client:
        await client.memory("a").export(tmp_path / "file")
        other = await client.import_memory(tmp_path / "file", name="b")
        assert_allclose((await other.query(GIVEN)).pattern, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damaging", [cut, flip, Path.unlink])
async def test_without_its_patterns_a_page_is_damaged_and_says_so(
    kept: ShardSpec, damaging: Callable[[Path], None]
) -> None:
    async with connected(kept) as client:
        await filled(client, "rewrite", "open_page")
    await damage(kept, damaging)
    async with connected(kept) as client:
        with (
            anyio.fail_after(20),
            pytest.raises(attractor.AttractorError, match=r"images/.* rebuild the memory") as caught,
        ):
            await client.memory("a").query(GIVEN)
        assert caught.value.reason == "STORE_DAMAGED"
    assert len(await faults(kept)) == PAGES
