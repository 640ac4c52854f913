"""Forks, snapshots, files and rebuilding, through the SDK against shards that keep memories."""

import os
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import apsw
import numpy as np
import pytest
from grpc import aio
from numpy.testing import assert_allclose, assert_array_equal
from tests.support import raw
from tests.support.shards import connected, serving
from tests.support.tiny_models import Images, images, write_models

import attractor
from attractor_proto.v1 import memory_copies_pb2 as pb
from attractor_proto.v1 import memory_copies_pb2_grpc
from attractor_server.memories.names import HIDDEN
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite import FILE
from attractor_server.storage.backends.sqlite_backend import folder_of, uri_of
from attractor_server.storage.database import number

PAGE = 4


@pytest.fixture
async def client(durable: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with connected(durable) as client:
        yield client


async def stored(client: attractor.AsyncClient, name: str, given: Images, **settings: int) -> attractor.AsyncMemory:
    memory = await client.create_memory(name, model="tiny", page_patterns=PAGE)
    for image in given:
        await memory.store(image)
    return memory


async def same(one: attractor.AsyncMemory, other: attractor.AsyncMemory, cues: Images) -> bool:
    first, second = await one.query(cues), await other.query(cues)
    return np.allclose(first.pattern, second.pattern, atol=1e-5)


@pytest.mark.parametrize("count", [2, 2 * PAGE + 1])
async def test_a_fork_recalls_what_its_origin_does_and_then_each_goes_its_own_way(
    client: attractor.AsyncClient, count: int
) -> None:
    given = images(count)
    memory = await stored(client, "a", given)
    before = (await memory.query(given)).pattern
    fork = await memory.fork("b")
    assert (await fork.info()).patterns == count
    assert_allclose((await fork.query(given)).pattern, before, atol=1e-5)
    assert (await fork.store(images(1, seed=1))).total == count + 1
    assert (await memory.store(images(3, seed=2))).total == count + 3
    again = await memory.fork("c")
    assert (await again.info()).patterns == count + 3
    await client.delete_memory("a")
    assert (await fork.info()).patterns == count + 1
    assert (await fork.query(given)).pattern.shape == given.shape


async def test_a_fork_of_a_taken_name_is_refused_and_a_repeat_is_not(client: attractor.AsyncClient) -> None:
    memory = await stored(client, "a", images(1))
    await memory.fork("b")
    await memory.fork("b")
    await client.create_memory("c", model="tiny")
    with pytest.raises(attractor.Conflict, match="memory 'c' exists, and is another one"):
        await memory.fork("c")
    with pytest.raises(attractor.InvalidRequest, match="target"):
        await memory.fork("no name")


async def test_a_restored_memory_recalls_what_it_did_and_goes_on(client: attractor.AsyncClient) -> None:
    first, later = images(PAGE + 1), images(PAGE, seed=1)
    memory = await stored(client, "a", first)
    before = (await memory.query(first)).pattern
    taken = await memory.snapshot("monday")
    assert (taken.tag, taken.version, taken.patterns) == ("monday", PAGE + 1, PAGE + 1)
    for image in later:
        await memory.store(image)
    assert (await memory.snapshots()) == [taken]
    info = await memory.restore("monday")
    assert (info.version, info.patterns) == (2 * PAGE + 2, PAGE + 1)
    assert_allclose((await memory.query(first)).pattern, before, atol=1e-5)
    assert (await memory.store(later[:1])).total == PAGE + 2
    early = await memory.fork("early", tag="monday")
    assert (await early.info()).patterns == PAGE + 1
    await memory.forget_snapshot("monday")
    with pytest.raises(attractor.SnapshotNotFound, match="monday"):
        await memory.restore("monday")


async def test_snapshots_and_forks_outlive_the_server(durable: ShardSpec) -> None:
    given = images(PAGE + 1)
    async with connected(durable) as client:
        memory = await stored(client, "a", given)
        await memory.snapshot("one")
        await memory.fork("b")
        await memory.store(images(1, seed=1))
        before = (await memory.query(given)).pattern
    async with connected(durable) as client:
        memory = client.memory("a")
        assert_allclose((await memory.query(given)).pattern, before, atol=1e-5)
        await memory.restore("one")
        assert await same(memory, client.memory("b"), given)


@pytest.mark.parametrize("tag", ["", "a b", ".hidden", "x" * 65])
async def test_what_cannot_be_a_tag_is_refused(client: attractor.AsyncClient, tag: str) -> None:
    memory = await stored(client, "a", images(1))
    with pytest.raises(attractor.InvalidRequest, match="tag: saw"):
        await memory.snapshot(tag)


async def test_an_exported_memory_is_the_same_on_another_server(on_disk: ShardSpec, tmp_path: Path) -> None:
    given = images(2 * PAGE + 1)
    async with connected(on_disk) as client:
        memory = await stored(client, "a", given)
        before = (await memory.query(given)).pattern
        await memory.export(tmp_path / "a.memory")
        assert await memory.snapshots() == []
        with pytest.raises(attractor.Conflict, match="memory 'a' exists"):
            await client.import_memory(tmp_path / "a.memory")
    async with connected(replace(on_disk, store_uri=uri_of(tmp_path / "other"))) as client:
        memory = await client.import_memory(tmp_path / "a.memory", name="b")
        info = await memory.info()
        assert (info.name, info.version, info.patterns, info.pages) == ("b", len(given), len(given), 3)
        assert_allclose((await memory.query(given)).pattern, before, atol=1e-5)
        assert (await memory.store(images(1, seed=1))).total == len(given) + 1
        assert [one.name async for one in client.memories()] == ["b"]


async def test_a_damaged_file_leaves_nothing_behind(durable: ShardSpec, tmp_path: Path) -> None:
    async with connected(durable) as client:
        memory = await stored(client, "a", images(PAGE + 1))
        path = anyio.Path(tmp_path / "a.memory")
        await memory.export(path)
        whole = await path.read_bytes()
        middle = whole.index(images(PAGE + 1)[2].tobytes())
        flipped = bytearray(whole)
        flipped[middle + 1] ^= 1
        for content, message in (
            (b"something else", "no exported memory"),
            (whole[: len(whole) // 2], "ends, or is damaged"),
            (whole[:-40], "before the tail"),
            (bytes(flipped), "sha256"),
            (whole[:23] + b"\xff" * 4 + whole[27:], "damaged at byte 23 or behind it"),
        ):
            await path.write_bytes(content)
            with pytest.raises(attractor.InvalidRequest, match=message):
                await client.import_memory(path, name="b")
            with pytest.raises(attractor.MemoryNotFound):
                await client.memory("b").info()
        assert [one.name async for one in client.memories()] == ["a"]


async def test_an_export_goes_where_a_link_leads_and_into_a_pipe(on_disk: ShardSpec, tmp_path: Path) -> None:
    async with connected(on_disk) as client:
        memory = await stored(client, "a", images(1))
        folder = anyio.Path(tmp_path)
        await (folder / "there").mkdir()
        await (folder / "there" / "real").write_bytes(b"before")
        await (folder / "link").symlink_to("there/real")
        await (folder / "dangling").symlink_to("there/new")
        for link, real in (("link", "real"), ("dangling", "new")):
            await memory.export(folder / link)
            assert await (folder / link).is_symlink()
            copy = await client.import_memory(folder / "there" / real, name=real)
            assert (await copy.info()).patterns == 1

        await anyio.to_thread.run_sync(os.mkfifo, tmp_path / "pipe")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(memory.export, folder / "pipe")
            read = await (folder / "pipe").read_bytes()
        assert await (folder / "pipe").is_fifo()
        await folder.joinpath("piped").write_bytes(read)
        assert (await client.import_memory(folder / "piped", name="b")).name == "b"
        await memory.export("/dev/null")
        assert not await anyio.Path("/dev/null").is_file()

        await memory.export(folder / ("x" * 255))
        with pytest.raises(IsADirectoryError):
            await memory.export(folder / "there")
        assert {path.name async for path in folder.iterdir()} == {
            *("there", "link", "dangling", "pipe", "piped", "x" * 255, "data"),
        }


async def test_rebuilding_closes_the_gaps_that_erasing_left(client: attractor.AsyncClient) -> None:
    given = images(2 * PAGE)
    memory = await stored(client, "a", given)
    info = await memory.rebuild(page_patterns=2 * PAGE)
    assert (info.pages, info.patterns, info.settings.page_patterns, info.version) == (
        1,
        2 * PAGE,
        2 * PAGE,
        2 * PAGE + 1,
    )
    other = await client.create_memory("b", model="tiny", page_patterns=2 * PAGE)
    await other.store(given)
    assert await same(memory, other, given)
    assert (await memory.store(images(1, seed=1))).total == 2 * PAGE + 1


async def test_a_memory_of_a_model_that_is_gone_is_rebuilt_on_another(durable: ShardSpec, tmp_path: Path) -> None:
    given = images(PAGE + 1)
    async with connected(durable) as client:
        await stored(client, "a", given)
    newer = await anyio.to_thread.run_sync(lambda: write_models(tmp_path / "newer", seed=1))
    async with connected(replace(durable, models=newer)) as client:
        memory = client.memory("a")
        with pytest.raises(attractor.Refused, match="which this server does not have"):
            await memory.query(given)
        info = await memory.rebuild(model="tiny")
        assert info.model_digest == (await client.model("tiny")).digest
        assert (await memory.query(given)).pattern.shape == given.shape
        fresh = await stored(client, "b", given)
        await fresh.rebuild()
        assert await same(memory, fresh, given)


async def test_a_model_with_other_fields_is_refused(client: attractor.AsyncClient) -> None:
    memory = await stored(client, "a", images(1))
    before = (await memory.query(images(1))).pattern
    with pytest.raises(attractor.InvalidRequest, match="model: saw pair, whose patterns have"):
        await memory.rebuild(model="pair")
    assert_array_equal((await memory.query(images(1))).pattern, before)


async def test_patterns_that_are_not_retained_are_gone_from_sealed_pages(on_disk: ShardSpec) -> None:
    given = images(PAGE + 1)
    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=PAGE, retain="open_page")
        for image in given:
            await memory.store(image)
        before = (await memory.query(given)).pattern
        with pytest.raises(attractor.NotRetained, match="page 0 of memory 'a' has its weights alone"):
            await memory.rebuild()
    content = b"".join([await path.read_bytes() async for path in anyio.Path(folder_of(on_disk.store_uri)).iterdir()])
    assert given[PAGE].tobytes() in content
    assert not any(image.tobytes() in content for image in given[:PAGE])
    async with connected(on_disk) as client:
        memory = client.memory("a")
        assert (await memory.info()).settings.retain == "open_page"
        assert_allclose((await memory.query(given)).pattern, before, atol=1e-5)


async def test_a_server_that_keeps_nothing_says_so(shard_client: attractor.AsyncClient) -> None:
    memory = await shard_client.create_memory("a", model="tiny")
    for call in (lambda: memory.fork("b"), lambda: memory.snapshot("x"), memory.rebuild, memory.snapshots):
        with pytest.raises(attractor.NotKept, match="keeps no memories"):
            await call()


@pytest.fixture
async def shard_client(spec: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with connected(spec) as client:
        yield client


async def test_copies_are_made_by_way_of_any_shard(durable: ShardSpec, tmp_path: Path) -> None:
    async with serving(durable, 2) as shards:
        for number, shard in enumerate(shards):
            async with attractor.connect(shard.info.address, direct=False) as client:
                for owner in ("a", "b", "c"):
                    memory = await stored(client, f"{owner}{number}", images(PAGE + 1))
                    await memory.snapshot("x")
                    await (await memory.fork(f"{owner}{number}/fork")).store(images(1, seed=1))
                    await memory.export(tmp_path / "file")
                    copy = await client.import_memory(tmp_path / "file", name=f"{owner}{number}/copy")
                    assert await same(memory, copy, images(PAGE + 1))
                    assert (await memory.restore("x")).patterns == PAGE + 1


async def test_snapshots_are_listed_in_pages_and_all_at_once_to_who_names_no_size(durable: ShardSpec) -> None:
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        copies = memory_copies_pb2_grpc.CopiesStub(channel)
        await raw.create(channel, "a")
        for tag in "abc":
            await copies.TakeSnapshot(pb.TakeSnapshotRequest(name="a", tag=tag))
        whole = await copies.ListSnapshots(pb.ListSnapshotsRequest(name="a"))
        first = await copies.ListSnapshots(pb.ListSnapshotsRequest(name="a", page_size=2))
        rest = await copies.ListSnapshots(
            pb.ListSnapshotsRequest(name="a", page_size=2, page_token=first.next_page_token)
        )
        with pytest.raises(aio.AioRpcError) as caught:
            await copies.ListSnapshots(pb.ListSnapshotsRequest(name="a", page_token="b"))
    assert [one.tag for one in whole.snapshots] == ["a", "b", "c"]
    assert [one.tag for one in first.snapshots] == ["a", "b"]
    assert [one.tag for one in rest.snapshots] == ["c"]
    assert (whole.next_page_token, rest.next_page_token) == ("", "")
    assert raw.violation(raw.status_of(caught.value))[0] == "page_token"


async def test_an_export_that_is_given_up_leaves_nothing(on_disk: ShardSpec) -> None:
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        copies = memory_copies_pb2_grpc.CopiesStub(channel)
        for wait_s in (0.0, 0.001, 0.003, 0.01) * 10:
            call = copies.Export(pb.ExportRequest(name="a"))
            await anyio.sleep(wait_s)
            call.cancel()
        await copies.TakeSnapshot(pb.TakeSnapshotRequest(name="a", tag="last"))  # behind all that was asked for
        with anyio.fail_after(20):
            while hidden(on_disk):  # noqa: ASYNC110  # nobody tells when the server is done with a call
                await anyio.sleep(0.05)


def hidden(spec: ShardSpec) -> int:
    """Snapshots in the store that were taken to be read once."""
    with closing(apsw.Connection(str(folder_of(spec.store_uri) / FILE), flags=apsw.SQLITE_OPEN_READONLY)) as store:
        return number(store.execute("SELECT count(*) FROM memories WHERE name LIKE ?", (f"%@{HIDDEN}%",)))
