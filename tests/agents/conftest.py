"""One server for all tests of memories for agents, and a space of its own for each."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tests.support.shards import models, spec
from tests.support.text_memories import shared_encoder, text_server

import attractor
from attractor_agents import AgentMemory

__all__ = ["models", "spec"]


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio") as started:
        yield started


@pytest.fixture(scope="session")
def address(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with text_server(portal, tmp_path_factory.mktemp("texts") / "data") as there:
        yield there


@pytest.fixture
def space() -> str:
    return f"agents/{uuid4().hex}"


@pytest.fixture
async def client(address: str) -> AsyncIterator[attractor.AsyncClient]:
    async with attractor.connect(address, timeout_s=20) as connected:
        yield connected


@pytest.fixture
def memory(client: attractor.AsyncClient, space: str) -> AgentMemory:
    return AgentMemory(client, space, encoder=shared_encoder())
