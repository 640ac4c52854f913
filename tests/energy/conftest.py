"""One thread, since threads that wait for one another cost more than such small tests gain; and a model file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.energy.models import tiny

from attractor_server.energy.model import save_model


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(tiny(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"
