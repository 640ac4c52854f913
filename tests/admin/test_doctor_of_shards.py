"""`attractor doctor --admin`: what the metrics of a shard that runs say."""

from dataclasses import replace

import anyio.to_thread
import numpy as np
from click.testing import CliRunner
from tests.support.shards import serving

import attractor
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec


async def diagnose(address: str) -> str:
    run = await anyio.to_thread.run_sync(
        lambda: CliRunner().invoke(main, ("doctor", "--port", "0", "--admin", address))
    )
    return run.output


async def test_the_doctor_says_how_long_requests_wait_and_that_a_bank_is_too_small(
    on_disk: ShardSpec, random: np.random.Generator
) -> None:
    async with (
        serving(replace(on_disk, admin_port=0, bank_bytes=1)) as (shard,),
        attractor.connect(shard.info.address, timeout_s=20) as client,
    ):
        memory = await client.create_memory("a", model="tiny", page_patterns=2)
        await memory.store(random.random((6, 4, 4), dtype=np.float32))
        await memory.query(random.random((2, 4, 4), dtype=np.float32))
        text = await diagnose(shard.admin_address)
    lines = [line.split() for line in text.splitlines()]
    assert ["shard", "serving"] in [[line[1].rstrip(":"), line[2]] for line in lines if len(line) == 3]
    assert any("wait for the engine" in line for line in text.splitlines())
    assert "pages were read for 2 requests" in text


async def test_the_doctor_names_an_admin_port_that_does_not_answer() -> None:
    assert "127.0.0.1:1: " in await diagnose("127.0.0.1:1")
