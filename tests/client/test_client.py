"""A client's life: connecting, closing, errors, the sync face, other backends."""

import asyncio
import queue
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import grpc
import numpy as np
import pytest
from grpc import aio
from numpy.typing import NDArray
from tests.support.fake_messages import status
from tests.support.fake_server import QUICK, FakeServer, FakeSession, serving

import attractor
from attractor._loop_thread import _EventLoop
from attractor_proto.v1 import memory_data_pb2 as pb

ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)


async def test_an_unreachable_server_is_named_within_the_timeout() -> None:
    with anyio.fail_after(10), pytest.raises(attractor.Unreachable, match=r"127\.0\.0\.1:1 within 0\.2 s"):
        async with attractor.connect("127.0.0.1:1", connect_timeout_s=0.2, retry=QUICK):
            pass


async def test_a_server_that_accepts_and_stays_silent_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with anyio.fail_after(10), pytest.raises(attractor.Unreachable, match=address):
            async with attractor.connect(address, connect_timeout_s=0.2):
                pass


async def test_a_server_that_starts_late_is_waited_for() -> None:
    refused = anyio.Event()

    class Telling(attractor.Retry):
        def delay_s(self, attempt: int) -> float:
            refused.set()
            return super().delay_s(attempt)

    async def enter() -> None:
        retry = Telling(first_delay_s=0.01, limit_delay_s=0.05)
        async with attractor.connect(f"127.0.0.1:{port}", connect_timeout_s=20, retry=retry) as client:
            assert await client.models()
        entered.set()

    entered = anyio.Event()
    with socket.socket() as place:  # keeps the port, and refuses who comes
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(enter)
                await refused.wait()
                async with serving(FakeServer(), port):
                    await entered.wait()


async def test_a_server_of_another_protocol_version_is_refused(fake: FakeServer) -> None:
    fake.welcome.protocol_version = 2
    with pytest.raises(attractor.ProtocolMismatch, match="saw version 2; expected version 1"):
        async with attractor.connect(fake.address):
            pass


async def test_a_server_that_refuses_our_version_is_a_mismatch(fake: FakeServer) -> None:
    error = status("FAILED_PRECONDITION", "PROTOCOL_VERSION", [("hello.protocol_version", "saw 1; expected 9")])

    async def refuse(context: "aio.ServicerContext[object, object]") -> None:
        trailing = (("grpc-status-details-bin", error.SerializeToString()),)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message, trailing)

    fake.greet = refuse
    with pytest.raises(attractor.ProtocolMismatch) as caught:
        async with attractor.connect(fake.address):
            pass
    assert caught.value.reason == "PROTOCOL_VERSION"
    assert caught.value.violations == (("hello.protocol_version", "saw 1; expected 9"),)


async def test_a_server_of_something_else_is_a_mismatch() -> None:
    other = aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        with pytest.raises(attractor.ProtocolMismatch, match="no Attractor server"):
            async with attractor.connect(f"127.0.0.1:{port}"):
                pass
    finally:
        await other.stop(None)


async def test_a_closed_client_says_so(fake: FakeServer) -> None:
    async with attractor.connect(fake.address) as client:
        memory = await client.create_memory("faces", model="tiny")
    with pytest.raises(attractor.Closed):
        await client.models()
    with pytest.raises(attractor.Closed):
        await memory.query(ONE)
    with pytest.raises(attractor.Closed):
        await memory.info()
    with pytest.raises(attractor.Closed):
        attractor.connect(fake.address).memory("faces")


async def test_calls_under_way_when_the_client_closes_are_told_so(fake: FakeServer) -> None:
    async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        yield frame.HasField("query")

    fake.hook = silent
    raised: list[BaseException] = []

    async def query(memory: attractor.AsyncMemory) -> None:
        with pytest.raises(attractor.Closed) as caught:
            await memory.query(ONE)
        raised.append(caught.value)

    async def describe(memory: attractor.AsyncMemory) -> None:
        with pytest.raises(attractor.Closed) as caught:
            await memory.info()
        raised.append(caught.value)

    async with anyio.create_task_group() as tasks, attractor.connect(fake.address) as client:
        memory = await client.create_memory("faces", model="tiny")
        fake.stuck.add("Get")
        tasks.start_soon(query, memory)
        tasks.start_soon(describe, memory)
        await fake.until(lambda: bool(fake.of_kind("query")) and not fake.stuck)
    assert len(raised) == 2


async def test_what_the_block_raises_comes_out_as_it_is(fake: FakeServer) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with attractor.connect(fake.address) as client:
            memory = await client.create_memory("faces", model="tiny")
            async with memory.stream():
                raise KeyError("mine")


async def test_a_task_cancelled_inside_the_block_ends_cancelled(fake: FakeServer) -> None:
    inside = anyio.Event()

    async def use() -> None:
        async with attractor.connect(fake.address):
            inside.set()
            await anyio.sleep_forever()

    task = asyncio.ensure_future(use())
    with anyio.fail_after(10):
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert task.cancelled()


async def test_a_callers_scope_ends_inside_the_block(fake: FakeServer) -> None:
    with anyio.move_on_after(0.1) as scope:
        async with attractor.connect(fake.address):
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_errors_carry_reason_and_violations(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    async def refuse(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store"):
            bad = status("INVALID_ARGUMENT", "INVALID_REQUEST", [("store.tensors[image]", "saw nan")])
            failure = pb.Failure(request_id=frame.store.columns.request_ids[0], status=bad)
            await session.send(failures=pb.Failures(failures=[failure]))
            yield True

    fake.hook = refuse
    with pytest.raises(attractor.InvalidRequest) as caught:
        await memory.store(np.full((2, 3), np.nan, np.float32))
    assert caught.value.violations == (("store.tensors[image]", "saw nan"),)


async def test_malformed_answers_are_a_fault_of_the_server(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    async def malformed(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("query"):
            await session.send(recalled=pb.RecalledFrame(request_ids=frame.query.columns.request_ids, patterns=[1]))
            yield True

    fake.hook = malformed
    with pytest.raises(attractor.ServerFault, match="scores"):
        await memory.query(ONE)


def test_outside_of_asyncio_the_client_refuses_to_start() -> None:
    entering = attractor.connect("127.0.0.1:1").__aenter__()
    with pytest.raises(attractor.WrongBackend, match="asyncio"):
        entering.send(None)  # as another library's loop would


def test_the_synchronous_client_does_the_same(server: FakeServer) -> None:
    with attractor.Client(server.address, timeout_s=20) as client:
        memory = client.create_memory("faces", model="tiny")
        assert memory.store(np.stack([ONE, ONE])).total == 2
        assert memory.query(ONE, known=np.ones((2, 3), np.bool_)).pattern.shape == (2, 3)
        assert memory.recognize(ONE).energy.shape == ()
        assert [info.name for info in client.memories()] == ["faces"]
        assert client.memory("faces").info().patterns == client.get_memory("faces").info().patterns
        assert [model.name for model in client.models()] == ["tiny", "pair"]
        client.delete_memory("faces")
        with pytest.raises(attractor.MemoryNotFound):
            client.get_memory("faces")


def test_a_synchronous_stream_may_use_its_own_client_for_its_items(server: FakeServer) -> None:
    with attractor.Client(server.address, timeout_s=20) as client:
        memory = client.create_memory("faces", model="tiny")
        with memory.stream() as stream:
            items = (memory.query(ONE).pattern for _ in range(5))
            assert [result.total for result in stream.store(items)] == [1, 2, 3, 4, 5]
            assert len(list(stream.query([ONE, ONE]))) == 2


def test_leaving_a_synchronous_stream_does_not_wait_for_its_source(server: FakeServer) -> None:
    source: queue.Queue[NDArray[np.float32] | None] = queue.Queue()

    def items() -> Iterator[NDArray[np.float32]]:
        while (item := source.get()) is not None:
            yield item

    with attractor.Client(server.address, timeout_s=20) as client:
        memory = client.create_memory("faces", model="tiny")
        with pytest.raises(KeyError), memory.stream() as stream:
            source.put(ONE)
            for result in stream.store(items()):
                raise KeyError(result.total)
        assert memory.store(ONE).total == 2
    source.put(None)


def test_what_grpc_says_late_does_not_disturb_other_loops() -> None:
    loop = _EventLoop()
    loop.close()
    loop.call_soon_threadsafe(pytest.fail, "called")


def test_a_client_closed_by_another_thread_says_so(server: FakeServer) -> None:
    async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        yield frame.HasField("query")

    server.hook = silent
    with ThreadPoolExecutor() as threads:
        with attractor.Client(server.address, timeout_s=20) as client:
            memory = client.create_memory("faces", model="tiny")
            waiting = [threads.submit(memory.query, ONE) for _ in range(4)]
            memory.recognize(ONE)
        for asked in waiting:
            with pytest.raises(attractor.Closed):
                asked.result(20)
        with pytest.raises(attractor.Closed):
            threads.submit(memory.query, ONE).result(20)


def test_a_closed_synchronous_client_says_so(server: FakeServer) -> None:
    with attractor.Client(server.address) as client:
        memory = client.create_memory("faces", model="tiny")
    with pytest.raises(attractor.Closed):
        memory.query(ONE)
    with pytest.raises(attractor.Closed):
        client.models()


def test_the_synchronous_client_names_an_unreachable_server() -> None:
    with (
        pytest.raises(attractor.Unreachable, match=r"127\.0\.0\.1:1"),
        attractor.Client("127.0.0.1:1", connect_timeout_s=0.1, retry=QUICK),
    ):
        pass
