"""A server whose memories are gone when it ends, and that warms its models before it says that it is ready."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.server_process import COMMAND, STANDS_IN, ServerProcess, drained, server_process


@pytest.fixture(scope="module")
def forgetful(models: Path) -> Iterator[ServerProcess]:
    """From its first line on."""
    words = ("--models", str(models), "--port", "0", "--warm-up", "yes", "--log-level", "info")
    with server_process(*words, early=True) as running:
        yield running


def test_memories_that_nothing_keeps_have_no_stand_in(forgetful: ServerProcess) -> None:
    assert STANDS_IN not in forgetful.ready
    assert len(forgetful.shard_processes()) == 1


def test_a_server_tells_how_long_each_model_took_to_warm(forgetful: ServerProcess) -> None:
    told = " ".join(drained(forgetful.errors))
    listed = forgetful.ready.partition("models: ")[2].partition(";")[0].split(", ")
    assert "tiny" in listed
    assert all(f"{name} is warm after" in told for name in listed)


def test_a_server_that_keeps_nothing_does_not_scale(forgetful: ServerProcess) -> None:
    command = [*COMMAND, "scale", "2", "--server", forgetful.address]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "would be lost by a move" in run.stderr
