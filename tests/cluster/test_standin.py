"""A server is there before Ray is: a stand-in serves until shards take over from it."""

import fcntl
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.support.cluster_calls import scaled, topology
from tests.support.postgresql import PostgresServer
from tests.support.server_process import ServerProcess, drained, server_process
from tests.support.writer import ONE, QUICK, Writer

import attractor

PAUSE_S = 5.0


def flags(models: Path, data: Path, *more: str) -> tuple[str, ...]:
    return ("--models", str(models), "--port", "0", "--data-dir", str(data), *more)


def total_of(server: ServerProcess, name: str) -> int:
    with attractor.Client(server.address, retry=QUICK, timeout_s=20) as client:
        return client.memory(name).info().patterns


def test_clients_of_the_stand_in_go_on_with_the_shards_and_never_see_an_error(models: Path, tmp_path: Path) -> None:
    with server_process(*flags(models, tmp_path, "--shards", "2"), early=True) as server:
        assert not server.shard_processes()
        address, writer = server.address, Writer(server.address, "busy")
        with writer.at_work(), attractor.Client(server.address, retry=QUICK, timeout_s=20) as client:
            memories = [client.create_memory(f"some/{n}", model="tiny") for n in range(16)]
            for n, memory in enumerate(memories):
                memory.store(ONE * n / 16)
            before = [memory.query(ONE * n / 16) for n, memory in enumerate(memories)]
            server.relieve()
            assert server.address == address
            assert len(server.shard_processes()) == 2
            for n, memory in enumerate(memories):
                after = memory.query(ONE * n / 16)
                np.testing.assert_allclose(after.pattern, before[n].pattern, rtol=1e-5, atol=1e-5)
            assert {info.version for info in client.memories("some/")} == {1}
        assert writer.error is None
        assert writer.versions == list(range(1, len(writer.versions) + 1))
        assert writer.slowest_s < PAUSE_S
        assert total_of(server, "busy") == len(writer.versions)


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray writes; pytest's own folders have names too long for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.mark.parametrize("after_s", [0, 2, 5])
def test_a_server_told_to_end_while_ray_starts_keeps_what_it_took_and_leaves_nothing_of_ray(
    models: Path, tmp_path: Path, ray_folder: Path, after_s: float
) -> None:
    for name in ("attractor-ray-killed", "attractor-ray-running"):
        (ray_folder / name).mkdir()
        (ray_folder / name / "lock").touch()
    with (ray_folder / "attractor-ray-running" / "lock").open() as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        _end_while_ray_starts(models, tmp_path, after_s)
    assert [one.name for one in ray_folder.iterdir()] == ["attractor-ray-running"]


def _end_while_ray_starts(models: Path, tmp_path: Path, after_s: float) -> None:
    with server_process(*flags(models, tmp_path), early=True) as server:
        with attractor.Client(server.address, retry=QUICK) as client:
            client.create_memory("a", model="tiny").store(ONE)
        time.sleep(after_s)
        assert server.stop() == 0
        assert not any("cut off" in line for line in drained(server.errors))
    with server_process(*flags(models, tmp_path), early=True) as server:
        assert total_of(server, "a") == 1


def test_shards_that_outlived_their_command_do_not_keep_its_memories_or_ports(models: Path, tmp_path: Path) -> None:
    words = flags(models, tmp_path)
    with server_process(*words) as server:
        with attractor.Client(server.address, retry=QUICK) as client:
            client.create_memory("a", model="tiny").store(ONE)
        (shard,) = server.shard_processes().values()
        shard.send_signal(signal.SIGSTOP)  # so that it stays, and holds its port, its groups and its lease
        server.process.kill()
        server.process.wait(10)
        port = server.address.rpartition(":")[2]
        with server_process(*words, "--port", port, early=True) as successor:
            assert total_of(successor, "a") == 1
            assert not psutil.pid_exists(shard.pid) or shard.status() == psutil.STATUS_ZOMBIE


def test_a_store_in_postgresql_has_one_too(models: Path, postgres: PostgresServer) -> None:
    words = ("--models", str(models), "--port", "0", "--backend-store-uri", postgres.store())
    with (
        server_process(*words, early=True) as server,
        attractor.Client(server.address, retry=QUICK, timeout_s=20) as client,
    ):
        memory = client.create_memory("a", model="tiny")
        assert memory.store(ONE).version == 1
        server.relieve()
        assert memory.store(ONE).version == 2


def test_more_shards_are_waited_for_until_there_are_any(models: Path, tmp_path: Path) -> None:
    with server_process(*flags(models, tmp_path), early=True) as server:
        scaled(server, 2)
        assert len(topology(server.address).shards) == 2


def test_a_server_on_all_addresses_names_the_one_that_others_reach(models: Path, tmp_path: Path) -> None:
    reached = {one.address for ones in psutil.net_if_addrs().values() for one in ones} - {"127.0.0.1"}
    with server_process(*flags(models, tmp_path, "--host", "0.0.0.0"), early=True) as server:
        assert server.address.rpartition(":")[0] in reached
        with attractor.Client(server.address, retry=QUICK) as client:
            client.create_memory("a", model="tiny").store(ONE)


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
