"""One server of two shards for all tests that do it no harm."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.server_process import ServerProcess, server_process
from tests.support.shards import models

__all__ = ["models", "server"]


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("data")
    with server_process("--models", str(models), "--shards", "2", "--port", "0", "--data-dir", str(data)) as running:
        yield running
