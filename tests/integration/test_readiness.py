"""A shard serves once its programs have been run."""

import logging
from dataclasses import replace

import anyio
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.session_frames import Gate
from tests.support.shards import serving

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc
from attractor_server.app import run_shard
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology


async def test_a_shard_serves_once_it_is_warm_and_says_how_long_it_took(
    spec: ShardSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate(monkeypatch)
    async with (
        run_shard(replace(spec, warm_up=True)) as shard,
        aio.insecure_channel(shard.info.address) as channel,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(shard.learn, Topology(1, (shard.info,)))
        await gate.until_reached()
        models = memories_pb2_grpc.MemoriesStub(channel)
        with pytest.raises(aio.AioRpcError) as caught:
            await models.Create(memories_pb2.CreateRequest(name="a", model="tiny"))
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert not shard.warm_up_s
        gate.opened.set()
        with anyio.fail_after(raw.WAIT_S):
            await shard._warming.done.wait()
            await anyio.wait_all_tasks_blocked()
            await raw.create(channel, "a")
        assert shard.warm
        assert set(shard.warm_up_s) == set(shard.models)
    assert all(f"{name} is warm after" in caplog.text for name in shard.models)


async def test_a_shard_that_need_not_be_warmed_serves_at_once(spec: ShardSpec) -> None:
    async with serving(spec) as (shard,):
        assert shard.warm
        assert not shard.warm_up_s
