"""What tests of the engine share: an event loop for its jobs, and a model that ships."""

import asyncio
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from attractor_server.energy.model import Model, load_model


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def binary() -> Model:
    return load_model(Path(str(files("attractor_server"))) / "models" / "binary-128.safetensors")
