"""Pages of the admin port: probes, settings, and a look inside where that is allowed."""

import json
from dataclasses import replace

import anyio
import pytest
from tests.support.admin_port import get
from tests.support.shards import serving

from attractor_server.app import run_shard
from attractor_server.errors import SettingsError
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology


async def test_a_shard_is_alive_from_the_start_and_ready_while_it_serves(spec: ShardSpec) -> None:
    async with run_shard(replace(spec, admin_port=0)) as shard:
        assert await get(shard.admin_address, "/livez") == (200, "the event loop answers\n")
        assert await get(shard.admin_address, "/readyz") == (503, "starting\n")
        await shard.learn(Topology(1, (shard.info,)))
        assert await get(shard.admin_address, "/readyz") == (200, "serving\n")
        with anyio.fail_after(20):
            await shard.drain(1.0)
        assert await get(shard.admin_address, "/readyz") == (503, "draining\n")
        assert (await get(shard.admin_address, "/livez"))[0] == 200


async def test_settings_are_shown_without_secrets(on_disk: ShardSpec) -> None:
    spec = replace(on_disk, admin_port=0, password="Gqx9-password", secret="Gqx9-secret")
    async with serving(spec) as (shard,):
        status, text = await get(shard.admin_address, "/config")
        assert status == 200
        assert "Gqx9" not in text
        told = json.loads(text)
        assert told["batch_patterns"] == spec.batch_patterns
        assert told["transport"]["age_s"] == spec.transport.age_s


async def test_the_inside_is_shown_where_that_is_allowed_alone(spec: ShardSpec) -> None:
    async with serving(replace(spec, admin_port=0)) as (shard,):
        assert (await get(shard.admin_address, "/debug/stacks"))[0] == 404
    async with serving(replace(spec, admin_port=0, admin_debug=True)) as (shard,):
        assert "MainThread" in (await get(shard.admin_address, "/debug/stacks"))[1]
        assert "batcher" in (await get(shard.admin_address, "/debug/tasks"))[1]
        status, text = await get(shard.admin_address, "/debug/profile?seconds=0.1")
        assert status == 200
        assert int(text.splitlines()[0].rpartition(" ")[2]) > 0
        assert await get(shard.admin_address, "/debug/profile?seconds=1e9") == (
            400,
            "seconds: saw '1e9'; expected more than 0, at most 60\n",
        )
        assert (await get(shard.admin_address, "/else"))[1].startswith("expected one of /livez, /readyz")


async def test_an_admin_port_that_is_taken_is_named(spec: ShardSpec) -> None:
    async with serving(replace(spec, admin_port=0)) as (shard,):
        taken = int(shard.admin_address.rpartition(":")[2])
        with pytest.raises(SettingsError, match=f"admin_port: saw 127.0.0.1:{taken}, where nothing can listen"):
            async with run_shard(replace(spec, admin_port=taken)):
                pass


async def test_without_an_admin_port_nothing_listens(spec: ShardSpec) -> None:
    async with serving(spec) as (shard,):
        assert shard.admin_address == ""
