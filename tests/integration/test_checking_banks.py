"""With `check_banks` a shard in whose bank two pages share a place ends, before anybody is told another's patterns."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import anyio
import grpc
import numpy as np
import pytest
from grpc import StatusCode, aio
from numpy.testing import assert_allclose
from tests.support import raw
from tests.support.forkserver import CONTEXT
from tests.support.shards import connected, serving
from tests.support.tiny_models import IMAGE, images

from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.cluster.serve import spec_of
from attractor_server.cluster.wire import pack_spec, pack_topology, unpack_status
from attractor_server.config import load_settings
from attractor_server.engine.pages.bank import Bank
from attractor_server.errors import BankBroken
from attractor_server.memories.page import Page
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology

END_S = 60.0
WAIT_S = 20.0


def free_twice(patch: pytest.MonkeyPatch) -> None:
    """From now on a bank frees the place of a page, and then does it again."""
    plain = Bank.release

    def release(bank: Bank, page: Page) -> None:
        place = page.place
        plain(bank, page)
        bank._free.append(place)

    patch.setattr(Bank, "release", release)


@pytest.fixture
def checked(on_disk: ShardSpec) -> ShardSpec:
    return replace(on_disk, check_banks=True)


async def store(address: str, name: str) -> None:
    async with aio.insecure_channel(address) as channel:
        await raw.create(channel, name)
        tensors = [raw.tensor(images(1))]
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory=name, tensors=tensors))


async def refused(address: str, name: str) -> tuple[StatusCode, str]:
    """What the deletion of a memory is told; no client repeats it."""
    async with aio.insecure_channel(address) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await memories_pb2_grpc.MemoriesStub(channel).Delete(memories_pb2.DeleteRequest(name=name), timeout=WAIT_S)
    return caught.value.code(), str(caught.value.details())


async def test_a_shard_in_whose_bank_a_place_is_free_twice_ends_and_the_next_one_has_what_was_stored(
    checked: ShardSpec, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(checked) as client:
        memory = await client.create_memory("kept", model="tiny")
        await memory.store(images(2))
        before = (await memory.query(images(2))).pattern
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ExceptionGroup) as ended:
        free_twice(patch)
        async with serving(checked) as (shard,):
            await store(shard.info.address, "gone")
            with anyio.CancelScope(shield=True):  # the end of the shard cancels this block
                code, told = await refused(shard.info.address, "gone")
            await anyio.sleep(END_S)
    assert code is StatusCode.UNAVAILABLE
    assert "the bank of model tiny" in told
    assert "is free 2 times, and has pages []" in told
    assert ended.group_contains(BankBroken)
    (line,) = (record for record in caplog.records if "this shard ends" in record.message)
    assert line.levelno == logging.CRITICAL
    assert told in line.message
    async with connected(checked) as client:
        assert_allclose((await client.memory("kept").query(images(2))).pattern, before, atol=1e-5)


async def test_nothing_is_checked_unless_it_was_asked_for(on_disk: ShardSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    free_twice(monkeypatch)
    async with connected(on_disk) as client:
        for name in ("a", "b"):
            await (await client.create_memory(name, model="tiny")).store(images(1))
            await client.delete_memory(name)


def test_shards_are_told_of_the_setting() -> None:
    assert not spec_of(load_settings({})).check_banks
    assert spec_of(load_settings({"check_banks": "yes"})).check_banks


def refused_after_store(address: str) -> StatusCode:
    """A memory is stored to and deleted; what the deletion is told."""
    with grpc.insecure_channel(address) as channel:
        memories = memories_pb2_grpc.MemoriesStub(channel)
        memories.Create(memories_pb2.CreateRequest(name="gone", model="tiny"), timeout=WAIT_S)
        request = pb.StoreRequest(memory="gone", tensors=[raw.tensor(np.ones((1, *IMAGE.shape), np.float32))])
        memory_data_pb2_grpc.MemoryDataStub(channel).Store(request, timeout=WAIT_S)
        with pytest.raises(grpc.RpcError) as caught:
            memories.Delete(memories_pb2.DeleteRequest(name="gone"), timeout=WAIT_S)
    code = caught.value.code()
    assert isinstance(code, StatusCode)
    return code


def _actor(spec: ShardSpec, line: Connection) -> None:
    from attractor_server.cluster.shard_actor import ShardActor  # noqa: PLC0415 - loads ray

    free_twice(pytest.MonkeyPatch())
    actor = ShardActor(pack_spec(spec), "warning")
    info = unpack_status(actor.status()).info
    actor.learn(pack_topology(Topology(1, (info,))))
    line.send(info.address)
    time.sleep(END_S)


def _stand_in(spec: ShardSpec, line: Connection) -> None:
    from attractor_server.cluster.standin import run_stand_in  # noqa: PLC0415 - loads torch

    free_twice(pytest.MonkeyPatch())
    with run_stand_in(spec) as stand_in:
        line.send(stand_in.address)
        line.recv()
        stand_in.leave()


@contextmanager
def running(
    target: Callable[[ShardSpec, Connection], None], spec: ShardSpec
) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that serves, and a line to it, which tells where."""
    line, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=target, args=(spec, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, line
    finally:
        process.kill()


def test_the_process_of_such_a_shard_ends_so_that_ray_starts_another(checked: ShardSpec) -> None:
    with running(_actor, checked) as (process, line):
        assert refused_after_store(line.recv()) is StatusCode.UNAVAILABLE
        process.join(END_S / 2)
        assert process.exitcode == 1


def test_a_stand_in_that_has_ended_so_leaves_to_shards_as_any_other(checked: ShardSpec) -> None:
    with running(_stand_in, checked) as (process, line):
        assert refused_after_store(line.recv()) is StatusCode.UNAVAILABLE
        line.send("leave")
        process.join(END_S / 2)
        assert process.exitcode == 0
