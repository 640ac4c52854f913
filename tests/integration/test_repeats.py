"""Calls whose answer was lost are repeated by the SDK, and done once."""

from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import tensor
from tests.support.shards import connected, serving
from tests.support.tiny_models import images

import attractor
from attractor_proto.v1 import (
    memories_pb2,
    memories_pb2_grpc,
    memory_copies_pb2_grpc,
    memory_data_pb2,
    memory_data_pb2_grpc,
)
from attractor_proto.v1 import memory_copies_pb2 as pb
from attractor_server.engine.operations.tasks import TaskRunner
from attractor_server.errors import ServerError
from attractor_server.memories import memory as memory_module
from attractor_server.memories.memory import REMEMBERED_CLIENTS
from attractor_server.memories.outcomes import Outcome, TaskDone
from attractor_server.rpc.memories import MemoriesServicer
from attractor_server.rpc.snapshots import CopiesServicer
from attractor_server.scheduling.jobs import Job
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite import FILE
from attractor_server.storage.backends.sqlite_backend import folder_of, uri_of

QUICK = attractor.Retry(first_delay_s=0.01, limit_delay_s=0.05)
Meanwhile = Callable[[], Awaitable[object]]


@dataclass
class Lost:
    """The first answer to each call of a kind is lost; `meanwhile` happens before the repeat."""

    monkeypatch: pytest.MonkeyPatch
    meanwhile: Meanwhile | None = None
    calls: list[str] = field(default_factory=list)

    def of(self, servicer: type, name: str) -> None:
        plain = getattr(servicer, name)

        async def call(its: object, request: object, context: "aio.ServicerContext[object, object]") -> object:
            answer = await plain(its, request, context)
            self.calls.append(name)
            if len(self.calls) > 1:
                return answer
            if self.meanwhile is not None:
                await self.meanwhile()
            await context.abort(StatusCode.UNAVAILABLE, "the answer is lost")
            raise AssertionError

        self.monkeypatch.setattr(servicer, name, call)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Lost:
    return Lost(monkeypatch)


async def test_a_restore_whose_answer_is_lost_takes_nothing_of_what_others_store_before_its_repeat(
    durable: ShardSpec, lost: Lost
) -> None:
    lost.of(CopiesServicer, "Restore")
    async with connected(durable) as client, connected_like(client) as other:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2))
        await memory.snapshot("x")
        lost.meanwhile = lambda: other.memory("a").store(images(3, seed=1))
        info = await memory.restore("x")
        assert (info.version, info.patterns) == (2, 2)
        assert lost.calls == ["Restore", "Restore"]
        now = await memory.info()
        assert (now.version, now.patterns) == (3, 5)
        assert (await memory.restore("x")).version == 4


@pytest.mark.parametrize("name", ["restore", "rebuild"])
async def test_what_a_call_made_of_a_memory_is_told_though_the_memory_leaves_the_shard_at_once(
    on_disk: ShardSpec, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plain = TaskRunner.run

    def run(tending: TaskRunner, job: Job) -> Outcome | ServerError:
        outcome = plain(tending, job)
        if isinstance(outcome, TaskDone):
            job.memory.pages.clear()  # as the next batch may do, before anybody has looked at the outcome
        return outcome

    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=1)
        await memory.store(images(3))
        await memory.snapshot("x")
        monkeypatch.setattr(TaskRunner, "run", run)
        info = await (memory.restore("x") if name == "restore" else memory.rebuild())
        assert (info.version, info.patterns, info.pages) == (2, 3, 3)


async def test_a_rebuild_whose_answer_is_lost_is_done_once(durable: ShardSpec, lost: Lost) -> None:
    lost.of(CopiesServicer, "Rebuild")
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2))
        assert (await memory.rebuild()).version == 2
        assert (await memory.info()).version == 2


async def test_a_snapshot_whose_answer_is_lost_is_of_the_version_that_it_was_taken_of(
    durable: ShardSpec, lost: Lost
) -> None:
    lost.of(CopiesServicer, "TakeSnapshot")
    async with connected(durable) as client, connected_like(client) as other:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2))
        lost.meanwhile = lambda: other.memory("a").store(images(3, seed=1))
        taken = await memory.snapshot("x")
        assert (taken.version, taken.patterns) == (1, 2)
        assert await memory.snapshots() == [taken]


async def test_a_snapshot_that_is_forgotten_twice_for_a_lost_answer_leaves_a_new_one_of_its_tag(
    durable: ShardSpec, lost: Lost
) -> None:
    lost.of(CopiesServicer, "ForgetSnapshot")
    async with connected(durable) as client, connected_like(client) as other:
        memory = await client.create_memory("a", model="tiny")
        await memory.snapshot("x")
        await memory.store(images(2))
        lost.meanwhile = lambda: other.memory("a").snapshot("x")
        await memory.forget_snapshot("x")
        assert [(one.tag, one.version) for one in await memory.snapshots()] == [("x", 1)]


@pytest.mark.parametrize("change", ["written", "deleted"])
async def test_a_fork_whose_answer_is_lost_is_made_once_whatever_others_do_to_it(
    durable: ShardSpec, lost: Lost, change: str
) -> None:
    lost.of(CopiesServicer, "Fork")
    async with connected(durable) as client, connected_like(client) as other:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2))
        fork = other.memory("b")
        lost.meanwhile = lambda: fork.store(images(1)) if change == "written" else other.delete_memory("b")
        await memory.fork("b")
        names = [one.name async for one in client.memories()]
        assert names == (["a", "b"] if change == "written" else ["a"])


async def test_an_import_whose_answer_is_lost_is_done_once(durable: ShardSpec, lost: Lost, tmp_path: Path) -> None:
    lost.of(CopiesServicer, "Import")
    async with connected(durable) as client, connected_like(client) as other:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2))
        await memory.export(tmp_path / "file")
        lost.meanwhile = lambda: other.memory("b").store(images(1, seed=1))
        copy = await client.import_memory(tmp_path / "file", name="b")
        assert (await copy.info()).patterns == 3
        with pytest.raises(attractor.Conflict):
            await client.import_memory(tmp_path / "file", name="b")


async def test_an_import_that_ends_early_and_an_export_are_begun_anew(
    on_disk: ShardSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="tiny", page_patterns=1)
        await memory.store(images(200))
        with monkeypatch.context() as patch:
            failing(patch, CopiesServicer, "Export")
            await memory.export(tmp_path / "file")
        failing(monkeypatch, CopiesServicer, "Import")
        copy = await client.import_memory(tmp_path / "file", name="b")
        assert (await copy.info()).patterns == 200


def failing(monkeypatch: pytest.MonkeyPatch, servicer: type, name: str) -> None:
    """The first call of that kind is ended before it is done."""
    plain = getattr(servicer, name)

    async def call(its: object, request: object, context: "aio.ServicerContext[object, object]") -> object:
        monkeypatch.setattr(servicer, name, plain)
        await context.abort(StatusCode.UNAVAILABLE, "going away")
        raise AssertionError

    monkeypatch.setattr(servicer, name, call)


async def test_a_deletion_whose_answer_is_lost_leaves_alone_what_was_made_under_the_name_since(
    durable: ShardSpec, lost: Lost
) -> None:
    lost.of(MemoriesServicer, "Delete")
    async with connected(durable) as client, connected_like(client) as other:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2))
        lost.meanwhile = lambda: other.create_memory("a", model="tiny")
        await client.delete_memory("a")
        assert (await other.memory("a").info()).patterns == 0
        await other.memory("a").store(images(1))
        await client.delete_memory("a")
        with pytest.raises(attractor.MemoryNotFound):
            await client.delete_memory("a")


async def test_a_repeat_after_a_restart_is_told_what_the_first_call_was(durable: ShardSpec) -> None:
    request = pb.RestoreRequest(name="a", tag="x", call=memories_pb2.Call(client_id="tests", sequence=7))
    async with connected(durable) as client:
        memory = await client.create_memory("a", model="tiny")
        await memory.store(images(2))
        await memory.snapshot("x")
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        first = await memory_copies_pb2_grpc.CopiesStub(channel).Restore(request)
        assert first.memory.version == 2
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        assert await memory_copies_pb2_grpc.CopiesStub(channel).Restore(request) == first
        store = memory_data_pb2.StoreRequest(memory="a", tensors=[tensor(images(1))], client_id="tests", sequence=7)
        stored = await memory_data_pb2_grpc.MemoryDataStub(channel).Store(store)  # whose numbers are others
        assert (stored.version, stored.total) == (3, 3)
        request.call.sequence = 8
        assert (await memory_copies_pb2_grpc.CopiesStub(channel).Restore(request)).memory.version == 4


async def test_a_number_that_another_call_had_is_refused_whatever_kind_either_is_of(durable: ShardSpec) -> None:
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        copies, memories = memory_copies_pb2_grpc.CopiesStub(channel), memories_pb2_grpc.MemoriesStub(channel)
        for name in ("a", "other"):
            await raw.create(channel, name)
        await copies.TakeSnapshot(pb.TakeSnapshotRequest(name="a", tag="x"))
        calls: list[tuple[Callable[[Any], Awaitable[object]], Any]] = [
            (copies.TakeSnapshot, pb.TakeSnapshotRequest(name="a", tag="y")),
            (copies.Fork, pb.ForkRequest(name="a", target="fork")),
            (copies.Restore, pb.RestoreRequest(name="a", tag="x")),
            (copies.Rebuild, pb.RebuildRequest(name="a")),
            (copies.ForgetSnapshot, pb.ForgetSnapshotRequest(name="a", tag="x")),
            (memories.Delete, memories_pb2.DeleteRequest(name="other")),
        ]
        for number, (call, request) in enumerate(calls, 1):
            request.call.client_id, request.call.sequence = "tests", number
            await call(request)
        before = await raw.state(channel, "a")
        await raw.create(channel, "other")
        for number in range(1, 7):
            for at, (call, request) in enumerate(calls, 1):
                request.call.sequence = number
                if at == number:
                    await call(request)  # a repeat, which does nothing
                    continue
                with pytest.raises(aio.AioRpcError, match="was given to a call before") as caught:
                    await call(request)
                assert raw.reason(raw.status_of(caught.value)) == "NUMBER_REUSED"
        again = pb.ForkRequest(name="a", target="another", call=memories_pb2.Call(client_id="tests", sequence=2))
        with pytest.raises(aio.AioRpcError, match="with other arguments"):
            await copies.Fork(again)
        names = (await memories.List(memories_pb2.ListRequest())).memories
        assert [one.name for one in names] == ["a", "fork", "other"]
        assert await raw.state(channel, "a") == before


async def test_nobody_can_have_another_clients_deletion_taken_for_done(durable: ShardSpec) -> None:
    call = memories_pb2.Call(client_id="theirs", sequence=7)
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        memories = memories_pb2_grpc.MemoriesStub(channel)
        for name in ("hostile/a", "theirs/a"):
            await raw.create(channel, name)
        await memories.Delete(memories_pb2.DeleteRequest(name="hostile/a", call=call))
        with pytest.raises(aio.AioRpcError, match="Delete of 'hostile/a'"):
            await memories.Delete(memories_pb2.DeleteRequest(name="theirs/a", call=call))
        call.sequence = 8
        await memories.Delete(memories_pb2.DeleteRequest(name="theirs/a", call=call))
        assert not (await memories.List(memories_pb2.ListRequest())).memories


async def test_a_client_that_begins_to_count_anew_is_told_and_loses_nothing_without_a_word(durable: ShardSpec) -> None:
    def request(sequence: int, seed: int) -> memory_data_pb2.StoreRequest:
        patterns = [tensor(images(1, seed=seed))]
        return memory_data_pb2.StoreRequest(memory="a", tensors=patterns, client_id="tests", sequence=sequence)

    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        data = memory_data_pb2_grpc.MemoryDataStub(channel)
        await raw.create(channel, "a")
        first = await data.Store(request(1, seed=1))
        with pytest.raises(aio.AioRpcError, match="writes something else") as caught:
            await data.Store(request(1, seed=2))
        assert raw.reason(raw.status_of(caught.value)) == "NUMBER_REUSED"
        erase = memory_data_pb2.EraseRequest(
            memory="a", tensors=[tensor(images(1, seed=1))], client_id="tests", sequence=1
        )
        with pytest.raises(aio.AioRpcError, match="writes something else"):
            await data.Erase(erase)
    async with serving(durable) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        data = memory_data_pb2_grpc.MemoryDataStub(channel)
        with pytest.raises(aio.AioRpcError, match="writes something else"):
            await data.Store(request(1, seed=2))
        assert await data.Store(request(1, seed=1)) == first
        assert (await data.Store(request(2, seed=2))).total == 2


@pytest.mark.parametrize("kept", [True, False])
async def test_a_repeat_by_a_client_after_many_others_wrote_is_never_applied_twice(
    spec: ShardSpec, tmp_path: Path, kept: bool
) -> None:
    def request(client: str, sequence: int = 1) -> memory_data_pb2.StoreRequest:
        patterns = [tensor(images(1))]
        return memory_data_pb2.StoreRequest(memory="a", tensors=patterns, client_id=client, sequence=sequence)

    settings = memories_pb2.MemorySettings(when_full=memories_pb2.WHEN_FULL_FORGET, page_patterns=4)
    spec = replace(spec, store_uri=uri_of(tmp_path / "data")) if kept else spec
    async with serving(spec) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        data = memory_data_pb2_grpc.MemoryDataStub(channel)
        await raw.create(channel, "a", settings=settings)
        first = await data.Store(request("early"))
        for number in range(REMEMBERED_CLIENTS):
            await data.Store(request(f"client {number}"))
        before = await raw.state(channel, "a")
        if kept:
            assert await data.Store(request("early")) == first
        else:
            with pytest.raises(aio.AioRpcError, match="no longer known") as caught:
                await data.Store(request("early"))
            assert raw.reason(raw.status_of(caught.value)) == "SEQUENCE_FORGOTTEN"
        assert await raw.state(channel, "a") == before
        assert (await data.Store(request("early", 2))).version == before[0] + 1


async def test_clients_that_come_once_leave_only_so_many_answers_in_the_store(
    on_disk: ShardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "KNOWN_CLIENTS", REMEMBERED_CLIENTS + 2)
    settings = memories_pb2.MemorySettings(when_full=memories_pb2.WHEN_FULL_FORGET, page_patterns=4)
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a", settings=settings)
        for number in range(REMEMBERED_CLIENTS + 9):
            request = memory_data_pb2.StoreRequest(
                memory="a", tensors=[tensor(images(1))], client_id=f"{number}", sequence=1
            )
            await memory_data_pb2_grpc.MemoryDataStub(channel).Store(request)

    with closing(apsw.Connection(str(folder_of(on_disk.store_uri) / FILE))) as rows:
        clients = {int(client) for (client,) in rows.execute("SELECT client FROM answers")}
    assert clients == set(range(REMEMBERED_CLIENTS + 9)) - set(range(7))


@pytest.mark.parametrize(("client_id", "sequence"), [("", 1), ("a", 0), ("a", 1 << 63), ("x" * 65, 1), ("a\0b", 1)])
async def test_a_call_that_is_numbered_by_half_is_refused(on_disk: ShardSpec, client_id: str, sequence: int) -> None:
    call = memories_pb2.Call(client_id=client_id, sequence=sequence)
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        with pytest.raises(aio.AioRpcError, match="call\\.") as caught:
            await memory_copies_pb2_grpc.CopiesStub(channel).Restore(pb.RestoreRequest(name="a", tag="x", call=call))
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT


async def test_a_store_with_a_number_that_no_store_can_keep_is_refused(on_disk: ShardSpec) -> None:
    store = memory_data_pb2.StoreRequest(memory="a", tensors=[tensor(images(1))], client_id="tests", sequence=1 << 63)
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a")
        with pytest.raises(aio.AioRpcError, match="sequence: saw") as caught:
            await memory_data_pb2_grpc.MemoryDataStub(channel).Store(store)
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT


def connected_like(client: attractor.AsyncClient) -> attractor.AsyncClient:
    """Another client of the same server."""
    return attractor.connect(client._address, timeout_s=20, retry=QUICK)
