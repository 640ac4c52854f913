"""The audit log: who did what to which memory, and nothing of what is in it."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from grpc import aio
from tests.support import raw
from tests.support.identities import bearer, put_identities, write_identities
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import HERE, THERE, serving

import attractor
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.shard.spec import ShardSpec

ONE = np.random.default_rng(1).random((4, 4), dtype=np.float32)
MARKER = "marker-7f3a"


async def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await anyio.Path(path).read_text()).splitlines()]


async def test_control_calls_and_refusals_have_lines_and_others_are_counted(on_disk: ShardSpec, tmp_path: Path) -> None:
    file, log = tmp_path / "identities.toml", tmp_path / "audit.jsonl"
    tokens = await write_identities(file, {"ada": ["users/ada/*:write", f"{MARKER}:read"]})
    async with serving(replace(on_disk, identities=file, audit_log=log)) as (shard,):
        address = shard.info.address
        async with attractor.connect(address, token=tokens["ada"], timeout_s=20) as client:
            memory = await client.create_memory("users/ada/a", model="tiny")
            for _ in range(3):
                await memory.store(ONE[None], payloads=[f"payload {MARKER}"], ids=[f"id {MARKER}"])
            await memory.query(ONE)
            await memory.snapshot("one")
            await memory.fork("users/ada/b")
            await memory.export(tmp_path / "exported")
            await client.import_memory(tmp_path / "exported", name="users/ada/c")
            await client.delete_memory("users/ada/a")
            for name in ("users/bob/a", "users/bob/a", "users/bob/b"):
                with pytest.raises(attractor.NotAllowed):
                    await client.get_memory(name)
        async with (
            aio.insecure_channel(address) as channel,
            raw_session(channel, metadata=bearer(tokens["ada"])) as session,
        ):
            for handle in (1, 2):
                assert raw.failures(await session.open("users/bob/a", handle))
        for token in (None, f"att_{MARKER}"):
            with pytest.raises(attractor.Unauthenticated):
                async with attractor.connect(address, token=token):
                    pass
        await put_identities(file, {}, {})
        assert shard._shard.identities is not None
        await shard._shard.identities.look()
        assert stat.S_IMODE((await anyio.Path(log).stat()).st_mode) == 0o600
    lines = await read_lines(log)
    text = await anyio.Path(log).read_text()
    assert not any(secret in text for secret in (MARKER, tokens["ada"], "payload"))
    told = [(line.get("what"), line.get("memory"), line.get("outcome")) for line in lines if "what" in line]
    assert told == [
        ("Create", "users/ada/a", "OK"),
        ("TakeSnapshot", "users/ada/a", "OK"),
        ("Fork", ["users/ada/a", "users/ada/b"], "OK"),
        ("Export", "users/ada/a", "OK"),
        ("Import", "users/ada/c", "OK"),
        ("Delete", "users/ada/a", "OK"),
        ("Get", "users/bob/a", "NOT_ALLOWED"),
        ("Get", "users/bob/b", "NOT_ALLOWED"),
        ("Session", "users/bob/a", "NOT_ALLOWED"),
        ("Session", None, "UNAUTHENTICATED"),
        ("identities", None, "OK"),
    ]
    assert {line["who"] for line in lines if "who" in line} == {"token:ada", "nobody"}
    assert {line["address"] for line in lines if "who" in line} == {"ipv4:127.0.0.1"}
    counts = {line.get("memory"): line["counts"] for line in lines if "counts" in line and line["who"] == "token:ada"}
    assert counts["users/ada/a"] == {"store": 3, "query": 1}
    assert counts["users/bob/a"] == {"Get refused": 2, "Session refused": 2}


async def test_a_forwarded_call_has_one_line_also_without_identities(spec: ShardSpec, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    async with (
        serving(replace(spec, audit_log=log), 2) as (one, _),
        aio.insecure_channel(one.info.address) as channel,
    ):
        for name in (HERE, THERE):
            await raw.create(channel, name)
        async with raw_session(channel) as session:
            await session.open(THERE, 1)
            query = pb.QueryFrame(columns=columns([1], [1], tensor(ONE[None])))
            assert (await session.ask(pb.SessionRequest(query=query))).HasField("recalled")
        with pytest.raises(aio.AioRpcError):
            await memories_pb2_grpc.MemoriesStub(channel).Create(memories_pb2.CreateRequest(name=HERE, model="none"))
    lines = await read_lines(log)
    told = [(line["what"], line["memory"], line["outcome"]) for line in lines if "what" in line]
    assert told == [("Create", HERE, "OK"), ("Create", THERE, "OK"), ("Create", HERE, "MODEL_NOT_FOUND")]
    assert [line["counts"] for line in lines if line.get("memory") == THERE and "counts" in line] == [{"query": 1}]


async def test_a_log_that_was_moved_away_goes_on_under_its_name(spec: ShardSpec, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    async with serving(replace(spec, audit_log=log)) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        with anyio.fail_after(20):
            while not await anyio.Path(log).read_text():  # noqa: ASYNC110 - a thread writes it
                await anyio.sleep(0.01)
        await anyio.Path(log).rename(tmp_path / "old")
        await raw.create(channel, "b")
    assert [line["memory"] for line in await read_lines(tmp_path / "old")] == ["a"]
    assert next(line["memory"] for line in await read_lines(log)) == "b"


async def test_a_caller_that_is_refused_again_and_again_fills_no_disk(spec: ShardSpec, tmp_path: Path) -> None:
    file, log = tmp_path / "identities.toml", tmp_path / "audit.jsonl"
    await write_identities(file, {"ada": ["*:read"]})
    async with (
        serving(replace(spec, identities=file, audit_log=log)) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
    ):
        for _ in range(100):
            with pytest.raises(aio.AioRpcError):
                await memories_pb2_grpc.MemoriesStub(channel).List(
                    memories_pb2.ListRequest(), metadata=bearer("att_wrong")
                )
    first, counted = await read_lines(log)
    assert (first["what"], first["who"], first["outcome"]) == ("List", "nobody", "UNAUTHENTICATED")
    assert counted["counts"] == {"List refused": 100}
