"""Shards that speak TLS: with their clients, with one another, and while certificates are renewed."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import copy

import anyio
import numpy as np
import pytest
from anyio import to_thread
from anyio.abc import TaskGroup
from tests.support.certificates import Authority, Pair, files_of, tls_of
from tests.support.fake_server import QUICK
from tests.support.shards import HERE, THERE, Stoppable, serving

import attractor
from attractor_server.app import RunningShard
from attractor_server.engine.engine import Engine
from attractor_server.errors import ServerError
from attractor_server.memories.outcomes import Outcome
from attractor_server.scheduling.jobs import Job
from attractor_server.shard import certificates
from attractor_server.shard.spec import ShardSpec, TLSFiles
from attractor_server.sharding.topology import Topology

ONE = np.full((1, 4, 4), 0.5, np.float32)


@dataclass(frozen=True)
class Files:
    """Certificates of two authorities."""

    ca: Path
    other_ca: Path
    both: Path
    """Both authorities"""
    server: Pair
    renewed: Pair
    """By the other authority"""
    client: Pair


@pytest.fixture
def files(tmp_path: Path) -> Files:
    authority, other = Authority(tmp_path / "one"), Authority(tmp_path / "other")
    both = tmp_path / "both.pem"
    both.write_bytes(authority.ca.read_bytes() + other.ca.read_bytes())
    return Files(
        authority.ca,
        other.ca,
        both,
        authority.issue("server"),
        other.issue("renewed"),
        authority.issue("client", name="client.test"),
    )


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards look at their files all the time."""
    monkeypatch.setattr(certificates, "LOOK_EVERY_S", 0.02)


@pytest.mark.parametrize("mutual", [False, True])
async def test_two_shards_serve_each_others_memories_by_one_name_at_any_address(
    spec: ShardSpec, files: Files, mutual: bool
) -> None:
    secure = replace(spec, tls=files_of(files.server, files.ca, client_ca=files.ca if mutual else None))
    tls = tls_of(files.ca, files.client if mutual else None)
    async with (
        serving(secure, 2) as (first, _),
        attractor.connect(first.info.address, tls=tls, direct=False, timeout_s=20) as through_one,
        attractor.connect(first.info.address, tls=tls, timeout_s=20) as straight,
    ):
        for client in (through_one, straight):
            for name in (HERE, THERE):
                memory = await client.create_memory(name, model="tiny")
                await memory.store(ONE)
                assert (await memory.info()).patterns > 0
            assert len([info async for info in client.memories()]) == 2


async def test_shards_with_files_of_no_authority_believe_their_own_certificate(spec: ShardSpec, files: Files) -> None:
    secure = replace(spec, tls=replace(files_of(files.server, files.ca), ca=None))
    async with (
        serving(secure, 2) as (first, _),
        attractor.connect(first.info.address, tls=tls_of(files.ca), direct=False, timeout_s=20) as client,
    ):
        for name in (HERE, THERE):
            await (await client.create_memory(name, model="tiny")).store(ONE)


async def keep_storing(memory: attractor.AsyncMemory, stored: list[int]) -> None:
    """Stores until cancelled, one after another; no call may fail."""
    while True:
        stored.append((await memory.store(ONE)).version)
        assert (await memory.info()).patterns > 0


@asynccontextmanager
async def under_load(client: attractor.AsyncClient, *, first: Sequence[int] = (0, 0)) -> AsyncIterator[list[list[int]]]:
    """Stores in a memory of each shard, whose versions are `first`, while the block runs; each store counts once."""
    stored: list[list[int]] = [[], []]
    async with anyio.create_task_group() as tasks:
        for name, versions in zip((HERE, THERE), stored, strict=True):
            tasks.start_soon(keep_storing, await client.create_memory(name, model="tiny"), versions)
        yield stored
        tasks.cancel_scope.cancel()
    for version, versions in zip(first, stored, strict=True):
        assert versions == sorted(set(versions))
        assert versions[0] in (version + 1, version + 2)  # the last of before may have been cancelled


async def wait_for_more(stored: list[list[int]]) -> None:
    """Waits until something more was stored in each memory."""
    before = [len(versions) for versions in stored]
    with anyio.fail_after(30):
        while any(len(versions) < count + 3 for versions, count in zip(stored, before, strict=True)):  # noqa: ASYNC110
            await anyio.sleep(0.01)


@pytest.mark.usefixtures("often")
async def test_certificates_are_renewed_under_load_without_a_failed_call(spec: ShardSpec, files: Files) -> None:
    secure = replace(spec, tls=files_of(files.server, files.both, client_ca=files.both))
    async with (
        serving(secure, 2) as (first, second),
        attractor.connect(first.info.address, tls=tls_of(files.both, files.client), direct=False) as client,
        under_load(client) as stored,
    ):
        await wait_for_more(stored)
        await to_thread.run_sync(files.server.become, files.renewed)
        await wait_for_more(stored)
        for shard in (first, second):  # new connections see the new one, and only that
            with pytest.raises(attractor.HandshakeFailed):
                async with attractor.connect(shard.info.address, tls=tls_of(files.ca, files.client)):
                    pass
            async with attractor.connect(shard.info.address, tls=tls_of(files.other_ca, files.client)) as new:
                assert (await (await new.get_memory(THERE)).info()).patterns > 0
        await wait_for_more(stored)


@pytest.mark.usefixtures("often")
async def test_files_that_do_not_go_together_leave_the_certificates_as_they_were(
    spec: ShardSpec, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(replace(spec, tls=files_of(files.server, files.both))) as (shard,):
        await to_thread.run_sync(copy, files.renewed.certificate, files.server.certificate)
        with anyio.fail_after(20):
            while "not the key" not in caplog.text:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        async with attractor.connect(shard.info.address, tls=tls_of(files.ca)) as client:
            await client.models()
        await to_thread.run_sync(copy, files.renewed.key, files.server.key)
        async with attractor.connect(shard.info.address, tls=tls_of(files.other_ca)) as client:
            await client.models()
        assert caplog.text.count("not the key") == 1


async def started(spec: ShardSpec, tasks: TaskGroup) -> tuple[Stoppable, RunningShard]:
    """A shard that serves alone, in a task of its own."""
    stoppable = Stoppable(spec)
    running = await tasks.start(stoppable.run)
    await running.learn(Topology(1, (running.info,)))
    return stoppable, running


@pytest.mark.parametrize(("hours_left", "warns"), [(24, True), (8760, False)])
async def test_a_certificate_that_is_about_to_expire_is_told_of(
    spec: ShardSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture, hours_left: float, warns: bool
) -> None:
    authority = await to_thread.run_sync(Authority, tmp_path / "third")
    pair = await to_thread.run_sync(partial(authority.issue, "server", hours_left=hours_left))
    async with (
        serving(replace(spec, tls=files_of(pair, authority.ca))) as (shard,),
        attractor.connect(shard.info.address, tls=tls_of(authority.ca)) as client,
    ):
        await client.models()
    assert ("expires in 24 hours" in caplog.text) is warns


async def test_a_server_goes_from_open_to_tls_while_clients_store_and_no_call_fails(
    on_disk: ShardSpec, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    both = files_of(files.server, files.ca, optional=True)
    async with anyio.create_task_group() as tasks:
        stoppable, running = await started(on_disk, tasks)
        address = running.info.address
        fixed = replace(on_disk, port=int(address.rpartition(":")[2]))

        async def start_anew(tls: TLSFiles) -> None:
            nonlocal stoppable, running
            await running.drain(5)
            await stoppable.stop()
            stoppable, running = await started(replace(fixed, tls=tls), tasks)

        async with attractor.connect(address, retry=QUICK) as old:
            async with under_load(old) as stored:
                await wait_for_more(stored)
                await start_anew(both)
                await wait_for_more(stored)
                assert caplog.text.count("a client at 127.0.0.1 connects without TLS") == 1
                async with attractor.connect(address, tls=tls_of(files.ca), retry=QUICK) as new:
                    assert (await (await new.get_memory(HERE)).info()).patterns > 0
            first = [versions[-1] for versions in stored]
            async with (
                attractor.connect(address, tls=tls_of(files.ca), retry=QUICK) as new,
                under_load(new, first=first) as stored,
            ):
                await wait_for_more(stored)
                await start_anew(replace(both, optional=False))
                await wait_for_more(stored)
            with pytest.raises(attractor.HandshakeFailed, match="speaks TLS, and this client does not"):
                await old.get_memory(HERE)
        await stoppable.stop()


async def test_clients_of_a_port_for_both_kinds_are_told_apart_by_their_own_addresses(
    spec: ShardSpec, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = Engine.run, set[str]()

    def noted(engine: Engine, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        seen.update(job.origin[0] for job in jobs if job.origin)
        return run(engine, jobs)

    monkeypatch.setattr(Engine, "run", noted)
    both = files_of(files.server, files.ca, optional=True)
    async with serving(replace(spec, host="::", tls=both)) as (shard,):
        port = shard.info.address.rpartition(":")[2]
        for address, tls in ((f"127.0.0.1:{port}", tls_of(files.ca)), (f"[::1]:{port}", None)):
            async with attractor.connect(address, tls=tls, direct=False) as client:
                await (await client.create_memory(HERE, model="tiny")).store(ONE)
    assert seen == {"ipv4:127.0.0.1", "ipv6:%5B::1%5D"}
