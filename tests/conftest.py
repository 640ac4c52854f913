"""What holds for every test: asyncio alone, and no blocking call on an event loop."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from grpc import aio


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """gRPC's event loop is asyncio's (grpc/grpc#25050)."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def grpc_poller() -> Iterator[None]:
    """Keeps gRPC's poller thread: the last channel of a test would wait for its end, on the loop."""
    aio.init_grpc_aio()
    yield
    aio.shutdown_grpc_aio()


@pytest.fixture(autouse=True)
def blockbuster(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """Makes a blocking call on the event loop an error, in tests that are coroutines."""
    if "anyio_backend" not in request.fixturenames:
        yield None
        return
    with blockbuster_ctx() as detector:
        yield detector
