"""Where a client may be left and where it may be used: tasks, event loops, timeouts."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import TypeVar

import anyio
import numpy as np
import pytest
from anyio import to_thread
from tests.support.fake_server import FakeServer, FakeSession

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb

ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
T = TypeVar("T")


async def in_another_task(what: Callable[[], Coroutine[object, object, T]]) -> T:
    return await asyncio.create_task(what())


async def on_another_loop(what: Callable[[], Coroutine[object, object, T]]) -> T:
    return await to_thread.run_sync(lambda: asyncio.run(what()))


async def left(client: attractor.AsyncClient | attractor.AsyncMemoryStream) -> None:
    await client.__aexit__(None, None, None)


def others() -> set["asyncio.Task[object]"]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


@pytest.fixture(autouse=True)
async def nothing_left_over() -> AsyncIterator[None]:
    """No task of a client outlives it."""
    before = others()
    yield
    assert [task for task in others() - before if "attractor" in repr(task)] == []


async def test_a_client_is_left_in_another_task_than_it_was_entered_in(fake: FakeServer) -> None:
    client = attractor.connect(fake.address, timeout_s=20)
    await client.__aenter__()
    await in_another_task(lambda: left(client))
    for _ in range(3):
        await asyncio.sleep(0)  # a scope that was left wrongly cancels every await
    with pytest.raises(attractor.Closed):
        await client.models()


async def test_a_client_and_a_stream_live_over_a_task_for_each_step(fake: FakeServer) -> None:
    """As in a notebook, where each cell is a task."""
    client = await in_another_task(attractor.connect(fake.address, timeout_s=20).__aenter__)
    memory = await in_another_task(lambda: client.create_memory("faces", model="tiny"))
    stream = await in_another_task(memory.stream().__aenter__)

    async def totals() -> list[int]:
        return [result.total async for result in stream.store([ONE, ONE, ONE])]

    assert await in_another_task(totals) == [1, 2, 3]
    await in_another_task(lambda: left(stream))
    assert (await in_another_task(lambda: memory.store(ONE))).total == 4
    await in_another_task(lambda: left(client))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_clients_are_left_in_any_order(fake: FakeServer, order: tuple[int, ...]) -> None:
    clients = [attractor.connect(fake.address, timeout_s=20) for _ in order]
    for client in clients:
        await client.__aenter__()
    streams = [(await client.create_memory("faces", model="tiny")).stream() for client in clients]
    for stream in streams:
        await stream.__aenter__()
    for number in order:
        await left(clients[number])
        await left(streams[number])
        await asyncio.sleep(0)


async def test_a_client_entered_under_a_timeout_outlives_that(fake: FakeServer) -> None:
    async with AsyncExitStack() as stack:
        with anyio.fail_after(20):
            client = await stack.enter_async_context(attractor.connect(fake.address, timeout_s=20))
        async with asyncio.timeout(20):
            other = await stack.enter_async_context(attractor.connect(fake.address, timeout_s=20))
        assert await client.models() == await other.models()


async def test_a_client_is_left_under_a_timeout(fake: FakeServer) -> None:
    client = attractor.connect(fake.address, timeout_s=20)
    for _ in range(2):
        await client.__aenter__()
        await asyncio.wait_for(left(client), 20)
        await asyncio.sleep(0)


async def test_an_async_generator_that_another_task_ends_closes_its_client(fake: FakeServer) -> None:
    async def fixture() -> AsyncIterator[attractor.AsyncClient]:
        async with attractor.connect(fake.address, timeout_s=20) as client:
            yield client

    given = fixture()

    async def step() -> attractor.AsyncClient | None:
        return await anext(given, None)

    client = await in_another_task(step)
    assert client is not None
    assert await client.models()
    assert await in_another_task(step) is None
    with pytest.raises(attractor.Closed):
        await client.models()


async def test_a_client_whose_opening_is_cancelled_can_be_opened_again(fake: FakeServer) -> None:
    """Cancelled by a scope, by a timeout and by the task itself, while the server keeps it waiting."""
    slow = True

    async def greet(_: object) -> None:
        if slow:
            await anyio.sleep_forever()

    fake.greet = greet
    client = attractor.connect(fake.address, timeout_s=20, connect_timeout_s=20)
    with anyio.move_on_after(0.05) as scope:
        await client.__aenter__()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.__aenter__(), 0.05)
    slow = False
    async with client:
        assert await client.models()


async def test_a_call_on_another_loop_is_refused_at_once_and_disturbs_nobody(fake: FakeServer) -> None:
    async with attractor.connect(fake.address, timeout_s=3600) as client:
        memory = await client.create_memory("faces", model="tiny")
        async with memory.stream() as stream:
            running = stream.store([ONE])
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: memory.query(ONE),
                lambda: memory.store(ONE),
                lambda: memory.recognize(ONE),
                memory.info,
                client.models,
                lambda: client.get_memory("faces"),
                lambda: anext(client.memories()),
                lambda: memory.fork("other"),
                memory.stream().__aenter__,
                lambda: anext(stream.query([ONE])),
                lambda: anext(running),
                lambda: left(stream),
                lambda: left(client),
            ]

            async def refused() -> int:
                for call in calls:
                    with pytest.raises(attractor.WrongLoop, match="another event loop"):
                        await call()
                return len(calls)

            with anyio.fail_after(20):
                assert await on_another_loop(refused) == len(calls)
            assert [result.total async for result in running] == [1]
        assert (await memory.store(ONE)).total == 2


def test_what_a_finished_loop_left_open_is_refused_on_the_next_and_can_be_opened_there(server: FakeServer) -> None:
    client = attractor.connect(server.address, timeout_s=3600)

    async def first() -> attractor.AsyncMemory:
        await client.__aenter__()
        memory = await client.create_memory("faces", model="tiny")
        await memory.store(ONE)
        return memory

    async def second(memory: attractor.AsyncMemory) -> int:
        with pytest.raises((attractor.Closed, attractor.WrongLoop)):
            await memory.query(ONE)
        with pytest.raises(attractor.Closed):
            await client.models()
        await left(client)
        async with client:
            return (await client.memory("faces").store(ONE)).total

    memory = asyncio.run(first())
    assert asyncio.run(asyncio.wait_for(second(memory), 20)) == 2


async def test_a_memory_of_an_earlier_opening_is_closed(fake: FakeServer) -> None:
    client = attractor.connect(fake.address, timeout_s=20)
    async with client:
        former = await client.create_memory("faces", model="tiny")
    async with client:
        for call in (former.info, lambda: former.store(ONE), lambda: former.query(ONE)):
            with pytest.raises(attractor.Closed, match="the client was closed"):
                await call()
        assert (await client.memory("faces").store(ONE)).total == 1


_LOOPS = """
import asyncio, logging, sys
import numpy as np
import attractor

async def use(number):
    async with attractor.connect(sys.argv[1], timeout_s=20) as client:
        memory = client.memory("faces")
        asked = [asyncio.create_task(memory.store(np.ones((2, 3), np.float32))) for _ in range(4)]
        await asyncio.sleep(0)
        if number % 2:
            await asyncio.gather(*asked)
    await asyncio.gather(*asked, return_exceptions=True)

logging.basicConfig(level=logging.ERROR)
for number in range(20):
    asyncio.run(use(number))
print("done")
"""


def test_many_loops_one_after_another_print_nothing(server: FakeServer) -> None:
    server.add("faces")
    ran = subprocess.run(
        [sys.executable, "-c", _LOOPS, server.address], capture_output=True, text=True, check=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("done\n", "")


async def test_an_unforeseen_error_beside_the_block_ends_its_calls_and_comes_out_of_it(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs beside the block may fail as well: nobody is left waiting, and the failure is not lost."""

    async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        yield frame.HasField("query")

    async def fail(*_: object, **__: object) -> None:
        raise LookupError("unforeseen")

    fake.hook = silent
    with caplog.at_level(logging.ERROR), pytest.raises(ExceptionGroup) as caught:
        async with attractor.connect(fake.address, timeout_s=3600) as client:
            memory = await client.create_memory("faces", model="tiny")
            assert client._connection is not None
            tasks = client._connection._router._tasks
            async with anyio.create_task_group() as asking:
                asking.start_soon(_query_until_closed, memory)
                await fake.until(lambda: bool(fake.of_kind("query")))
                tasks.start_soon(fail)
            with pytest.raises(attractor.Closed):
                await client.models()
    assert caught.group_contains(LookupError)


async def _query_until_closed(memory: attractor.AsyncMemory) -> None:
    with anyio.fail_after(20), pytest.raises(attractor.Closed):
        await memory.query(ONE)
