"""A shard whose bank is too small for its memories, over gRPC: nobody notices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anyio import to_thread
from numpy.typing import NDArray
from tests.support.shards import serving
from tests.support.tiny_models import IMAGE, tiny_model

import attractor
from attractor_server.app import run_shard
from attractor_server.energy.model_file import save_model
from attractor_server.engine.pages.precision import Precision
from attractor_server.errors import SettingsError
from attractor_server.shard.spec import ShardSpec

IMAGES = np.random.default_rng(1).random((12, 4, 4), dtype=np.float32)


@pytest.fixture
def cramped(tmp_path: Path) -> ShardSpec:
    """Two places for pages."""
    model = save_model(tiny_model("tiny", IMAGE), tmp_path / "models" / "tiny.safetensors")
    return ShardSpec(models=tmp_path / "models", bank_bytes=2 * model.page_bytes, warm_up=False)


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    (tmp_path / "taken").write_text("a file")
    return tmp_path / "taken"


async def recalled(spec: ShardSpec) -> list[NDArray[np.float32]]:
    """What twelve memories answer, in turn, after each has had two stores."""
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memories = [await client.create_memory(f"m{number}", model="tiny") for number in range(12)]
        for turn in (0, 5):
            for number, memory in enumerate(memories):
                assert (await memory.store(IMAGES[number - turn])).version == 1 + (turn > 0)
        return [(await memory.query(0.8 * image)).pattern for memory, image in zip(memories, IMAGES, strict=True)]


async def test_memories_that_outnumber_the_places_answer_the_same(cramped: ShardSpec) -> None:
    few, many = await recalled(cramped), await recalled(replace(cramped, bank_bytes=1 << 20))
    assert np.array_equal(few, many)


async def test_what_leaves_the_bank_lies_in_the_shards_part_of_the_folder_that_was_named(
    cramped: ShardSpec, tmp_path: Path
) -> None:
    async with serving(replace(cramped, artifacts=tmp_path / "artifacts")) as (shard,):
        async with attractor.connect(shard.info.address, timeout_s=20) as client:
            for number in range(3):
                await (await client.create_memory(f"m{number}", model="tiny")).store(IMAGES)
        (path,) = await to_thread.run_sync(lambda: list(tmp_path.glob("artifacts/shard-0/tiny-*.pages")))
        assert (await to_thread.run_sync(path.stat)).st_size > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
async def test_fewer_bits_answer_nearly_the_same(cramped: ShardSpec, dtype: Precision) -> None:
    exact, rounded = await recalled(cramped), await recalled(replace(cramped, bank_dtype=dtype))
    assert not np.array_equal(exact, rounded)
    assert np.allclose(rounded, exact, atol=0.02)


async def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_served(
    cramped: ShardSpec, taken: Path
) -> None:
    with pytest.raises(SettingsError, match=rf"^artifact_store: saw '{taken}', where nothing can be written: "):
        async with run_shard(replace(cramped, artifacts=taken)):
            pass


async def test_a_bank_that_the_machine_has_no_memory_for_is_told_by_its_setting(spec: ShardSpec) -> None:
    with pytest.raises(SettingsError, match=r"^bank_memory_mib: saw 1099511627776 for each of \d+ models, and "):
        async with run_shard(replace(spec, bank_bytes=1 << 60)):
            pass
