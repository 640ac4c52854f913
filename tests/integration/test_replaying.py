"""`attractor verify --replay`: sealed pages follow from their patterns, or it is said that they do not."""

from typing import Literal

import anyio.to_thread
import apsw
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.support.shards import serving
from tests.support.tiny_models import IMAGE

import attractor
from attractor_server.cli.main import main
from attractor_server.memories.records import checksum
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite import FILE
from attractor_server.storage.backends.sqlite_backend import folder_of


async def verified(spec: ShardSpec) -> Result:
    command = ["verify", "--replay", "--backend-store-uri", spec.store_uri, "--models", str(spec.models)]
    return await anyio.to_thread.run_sync(CliRunner().invoke, main, command)


@pytest.mark.parametrize(
    ("model", "shape"), [("tiny", IMAGE.shape), ("glyphs-28-small", (28, 28)), ("embedding-384", (384,))]
)
@pytest.mark.parametrize("write", ["rewrite", "stream"])
async def test_weights_that_follow_from_their_patterns_are_well_and_others_are_named(
    on_disk: ShardSpec, write: Literal["rewrite", "stream"], model: str, shape: tuple[int, ...]
) -> None:
    images = np.random.default_rng(0).random((11, *shape), dtype=np.float32)
    async with serving(on_disk) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memory = await client.create_memory("a", model=model, write=write, page_patterns=4)
        for start in range(0, len(images), 3):
            await memory.store(images[start : start + 3])
    result = await verified(on_disk)
    assert result.exit_code == 0, result.output
    assert "2 pages written anew; nothing wrong" in result.output
    await anyio.to_thread.run_sync(_bend, on_disk)
    result = await verified(on_disk)
    assert result.exit_code == 1
    assert "memory 'a', page 0: its weights differ by" in result.output
    assert "1 wrong" in result.output


def _bend(spec: ShardSpec) -> None:
    """Changes one weight of the first page, with its checksum."""
    connection = apsw.Connection(str(folder_of(spec.store_uri) / FILE))
    content, version, image = connection.execute("SELECT content, version, weights FROM images ORDER BY content").get[0]
    bent = (np.frombuffer(image[12:16], "<f4") + 1).astype("<f4").tobytes()
    weights = image[:12] + bent + image[16:]
    connection.execute(
        "UPDATE images SET weights = ?, checksum = ? WHERE content = ?",
        (weights, checksum(content, version, weights), content),
    )
    connection.close()
