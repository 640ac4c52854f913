"""A server is there before Ray is: a stand-in serves until shards take over from it."""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.server_process import ServerProcess, drained, server_process, until
from tests.support.writer import ONE, QUICK

import attractor


def flags(models: Path, data: Path, *more: str) -> tuple[str, ...]:
    return ("--models", str(models), "--port", "0", "--data-dir", str(data), *more)


def total_of(server: ServerProcess, name: str) -> int:
    with attractor.Client(server.address, retry=QUICK, timeout_s=20) as client:
        return client.memory(name).info().patterns


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray writes; pytest's own folders have names too long for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_a_server_told_to_end_while_ray_starts_keeps_what_it_took_and_leaves_nothing_of_ray(
    models: Path, tmp_path: Path, ray_folder: Path
) -> None:
    """At once, when Ray has begun, which takes signals for itself, and when it has started its node."""
    for name in ("attractor-ray-killed", "attractor-ray-running"):
        (ray_folder / name).mkdir()
        (ray_folder / name / "lock").touch()
    with (ray_folder / "attractor-ray-running" / "lock").open() as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        for version, begun in enumerate(("*", "*/session_*", "*/session_*/logs/raylet.out"), 1):
            with server_process(*flags(models, tmp_path), early=True) as server:
                with attractor.Client(server.address, retry=QUICK) as client:
                    memory = client.create_memory("a", model="tiny") if version == 1 else client.memory("a")
                    assert memory.store(ONE).version == version
                until(lambda begun=begun: any(ray_folder.glob(begun)))  # type: ignore[misc]
                assert server.stop() == 0
                assert not any("cut off" in line for line in drained(server.errors))
    assert [one.name for one in ray_folder.iterdir()] == ["attractor-ray-running"]
    reached = {one.address for ones in psutil.net_if_addrs().values() for one in ones} - {"127.0.0.1"}
    with server_process(*flags(models, tmp_path, "--host", "0.0.0.0"), early=True) as server:
        assert total_of(server, "a") == 3
        assert server.address.rpartition(":")[0] in reached, "it names no address that others reach"


def test_a_taken_port_is_told_in_one_line(models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = flags(models, tmp_path, "--port", str(taken.getsockname()[1]))
        told = pytest.raises(AssertionError, match=r"\['attractor: port: [^']*taken\?")
        with told, server_process(*words, early=True):
            pass


def test_that_no_process_can_be_forked_beside_the_banks_is_told_in_one_line(models: Path, tmp_path: Path) -> None:
    mib = str(int(0.6 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20)  # of all that there is
    told = pytest.raises(AssertionError, match=rf"\['attractor: bank_memory_mib: saw {mib} [^']*--models[^']*\\n'\]")
    with told, server_process(*flags(models, tmp_path, "--bank-memory-mib", mib)):
        pytest.skip("this machine gives a process more memory than it has")
