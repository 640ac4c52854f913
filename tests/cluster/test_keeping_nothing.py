"""A server whose memories are gone when it ends, that warms its models first, and whose user has no home folder."""

import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.support.server_process import COMMAND, STANDS_IN, ServerProcess, drained, remove_home, server_process

import attractor

ONE = np.full((4, 4), 0.5, np.float32)
QUICK = attractor.Retry(first_delay_s=0.02, limit_delay_s=0.2)


@pytest.fixture(scope="module")
def forgetful(models: Path) -> Iterator[ServerProcess]:
    """From its first line on."""
    words = ("--models", str(models), "--port", "0", "--warm-up", "yes", "--log-level", "info", "--grace-s", "10")
    with pytest.MonkeyPatch.context() as patch:
        remove_home(patch)
        with server_process(*words, early=True) as running:
            yield running


@pytest.fixture(scope="module")
def start_log(forgetful: ServerProcess) -> Sequence[str]:
    """Lines of its log until it was ready."""
    return drained(forgetful.errors)


def test_memories_that_nothing_keeps_have_no_stand_in(forgetful: ServerProcess) -> None:
    assert STANDS_IN not in forgetful.ready
    assert len(forgetful.shard_processes()) == 1


def test_a_server_needs_no_home_folder(start_log: Sequence[str]) -> None:
    assert not [line for line in start_log if " INFO " not in line]


def test_a_server_tells_how_long_each_model_took_to_warm(forgetful: ServerProcess, start_log: Sequence[str]) -> None:
    listed = forgetful.ready.partition("models: ")[2].partition(";")[0].split(", ")
    assert "tiny" in listed
    assert all(f"{name} is warm after" in " ".join(start_log) for name in listed)


def test_a_server_that_keeps_nothing_does_not_scale(forgetful: ServerProcess) -> None:
    command = [*COMMAND, "scale", "2", "--server", forgetful.address]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "would be lost by a move" in run.stderr


def test_on_sigterm_the_server_finishes_what_it_accepted_and_exits_0(forgetful: ServerProcess) -> None:
    """The last one: it ends the server of those before it."""
    answered: list[int] = []
    ended: list[attractor.AttractorError] = []
    begun = threading.Event()

    def store() -> None:
        with attractor.Client(forgetful.address, timeout_s=3, retry=QUICK) as client:
            memory = client.create_memory("busy", model="tiny")
            try:
                while True:
                    answered.append(memory.store(ONE).version)
                    begun.set()
            except attractor.AttractorError as error:
                ended.append(error)

    worker = threading.Thread(target=store)
    worker.start()
    assert begun.wait(30)
    assert forgetful.stop() == 0
    worker.join(30)
    assert not worker.is_alive()
    assert not any("cut off" in line for line in drained(forgetful.errors))
    assert isinstance(ended[0], attractor.TimeoutExceeded)  # it waited for the server to come back
    assert answered == list(range(1, len(answered) + 1))
