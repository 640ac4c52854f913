"""Numbers of writes and calls belong to whoever proves to be their client, also of those from before identities."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.identities import Metadata, bearer, write_identities
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import models, on_disk, serving, spec

from attractor_proto.v1 import (
    memories_pb2,
    memories_pb2_grpc,
    memory_copies_pb2,
    memory_copies_pb2_grpc,
    memory_data_pb2_grpc,
)
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.shard.spec import ShardSpec

__all__ = ["models", "on_disk", "spec"]

PATTERNS = np.random.default_rng(1).random((3, 1, 4, 4), dtype=np.float32)
HELLO = pb.Hello(protocol_version=1, client_id="shared")


async def store(channel: aio.Channel, number: int, pattern: int, metadata: Metadata = ()) -> int:
    """Store under the client id that all share; return the version of the memory."""
    request = pb.StoreRequest(
        memory="m", tensors=[tensor(PATTERNS[pattern])], client_id=HELLO.client_id, sequence=number
    )
    return (await memory_data_pb2_grpc.MemoryDataStub(channel).Store(request, metadata=metadata)).version


async def take(channel: aio.Channel, number: int, tag: str, metadata: Metadata = ()) -> int:
    request = memory_copies_pb2.TakeSnapshotRequest(
        name="m", tag=tag, call=memories_pb2.Call(client_id=HELLO.client_id, sequence=number)
    )
    taken = await memory_copies_pb2_grpc.CopiesStub(channel).TakeSnapshot(request, metadata=metadata)
    return taken.snapshot.version


async def test_repeats_from_before_identities_are_recognised_and_new_numbers_are_each_principals_own(
    on_disk: ShardSpec, tmp_path: Path
) -> None:
    file = tmp_path / "identities.toml"
    tokens = await write_identities(file, {"ada": ["*:write"], "bob": ["*:write"]})
    ada, bob = bearer(tokens["ada"]), bearer(tokens["bob"])
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "m")
        assert await store(channel, 1, 0) == 1
        assert await take(channel, 1, "one") == 1
    async with (
        serving(replace(on_disk, identities=file)) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
    ):
        assert await store(channel, 1, 0, ada) == 1
        assert await take(channel, 1, "one", ada) == 1
        async with raw_session(channel, hello=HELLO, metadata=ada) as session:
            assert (await session.open("m", 1)).opened.last_sequence == 1
            frame = pb.StoreFrame(columns=columns([1], [1], tensor(PATTERNS[0])), sequences=[1])
            assert list((await session.ask(pb.SessionRequest(store=frame))).stored.versions) == [1]
        create = memories_pb2.CreateRequest(name="n", model="tiny")
        memories = memories_pb2_grpc.MemoriesStub(channel)
        await memories.Create(create, metadata=ada)
        new = pb.StoreRequest(memory="n", tensors=[tensor(PATTERNS[1])], client_id="shared", sequence=7)
        other = pb.StoreRequest(memory="n", tensors=[tensor(PATTERNS[2])], client_id="shared", sequence=7)
        data = memory_data_pb2_grpc.MemoryDataStub(channel)
        versions = [
            (await data.Store(request, metadata=who)).version
            for request, who in ((new, ada), (other, bob), (new, ada), (other, bob))
        ]
        assert versions == [1, 2, 1, 2]
        with pytest.raises(aio.AioRpcError) as caught:
            await data.Store(other, metadata=ada)
        assert caught.value.code() is StatusCode.FAILED_PRECONDITION
        async with raw_session(channel, hello=HELLO, metadata=bob) as session:
            assert (await session.open("n", 1)).opened.last_sequence == 7
        assert await take(channel, 2, "two", ada) == await take(channel, 2, "three", bob) == 1
    async with (
        serving(replace(on_disk, identities=file)) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
    ):
        data = memory_data_pb2_grpc.MemoryDataStub(channel)
        assert [(await data.Store(new, metadata=who)).version for who in (ada, ada)] == [1, 1]
        assert (await data.Store(other, metadata=bob)).version == 2
