"""A fake server and a client of it for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tests.support.fake_server import QUICK, FakeServer, serving

import attractor


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with serving(FakeServer()) as server:
        yield server


@pytest.fixture
async def client(fake: FakeServer) -> AsyncIterator[attractor.AsyncClient]:
    async with attractor.connect(fake.address, timeout_s=20, retry=QUICK) as connected:
        yield connected


@pytest.fixture
async def memory(client: attractor.AsyncClient) -> attractor.AsyncMemory:
    return await client.create_memory("faces", model="tiny")


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """One loop for the servers of all tests that have none (see `one_loop`)."""
    with start_blocking_portal("asyncio") as started:
        yield started


@pytest.fixture
def server(portal: BlockingPortal) -> Iterator[FakeServer]:
    """A server for tests without a loop."""
    with portal.wrap_async_context_manager(serving(portal.call(FakeServer))) as fake:
        yield fake
