"""`attractor serve --ray-address`: shards on the nodes of a Ray cluster that runs already."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster
from tests.support.cluster_calls import topology
from tests.support.ray_nodes import actors, free_port, head_of, ray_cluster, raylet
from tests.support.server_process import COMMAND, drained, server_process, until

import attractor

ONE = np.full((4, 4), 0.5, np.float32)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head and two nodes beside it; each test ends the server that it has on them."""
    with ray_cluster(beside=2) as cluster:
        yield cluster


def stopped(cluster: Cluster) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, "stop", "--ray-address", cluster.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_server_is_spread_over_the_nodes_of_a_ray_cluster_alone_and_leaves_it_running(
    nodes: Cluster, models: Path
) -> None:
    first = free_port()
    flags = ("--ray-address", nodes.address, "--shards", "3", "--port", str(first), "--on-stop", "end")
    with socket.create_server(("", first + 1)), server_process("--models", str(models), *flags) as server:
        places = [actor.ppid() for actor in actors("ShardActor")]
        (supervisor,) = actors("Supervisor")
        assert len(places) == len(set(places)) == 3
        assert supervisor.ppid() == raylet(head_of(nodes)).pid
        ports = {int(shard.address.rpartition(":")[2]) for shard in topology(server.address).shards}
        assert first in ports
        assert first + 1 not in ports
        assert len(ports) == 3
        with attractor.Client(server.address) as client:
            for n in range(4):
                assert client.create_memory(f"joined/{n}", model="tiny").store(ONE).version == 1
        told = pytest.raises(AssertionError, match="another server runs in this Ray cluster")
        with told, server_process("--models", str(models), *flags):
            pass
        assert server.stop() == 0, drained(server.errors)
    until(lambda: not actors("ShardActor"))
    assert "no server runs in this Ray cluster" in stopped(nodes).stderr


def test_shards_outlive_their_command_and_another_one_goes_on_with_them(
    nodes: Cluster, models: Path, tmp_path: Path
) -> None:
    place = ("--ray-address", nodes.address, "--advertise", "127.0.0.1", "--port", "0")
    flags = ("--models", str(models), "--shards", "2", "--data-dir", str(tmp_path / "data"), *place)
    changed = (*flags, "--batch-ms", "30", "--batch-patterns", "9")
    with server_process(*flags) as server:
        server.process.kill()
        server.process.wait(60)
        with attractor.Client(server.address) as client:
            assert client.create_memory("left/alone", model="tiny").store(ONE).version == 1
            with server_process(*flags) as successor:
                assert successor.address == server.address
                assert client.memory("left/alone").store(ONE).version == 2
                assert successor.stop() == 0, drained(successor.errors)
            assert client.memory("left/alone").store(ONE).version == 3
            other = pytest.raises(
                AssertionError, match=r"has other settings \(batch_patterns, batch_s\); expected the same"
            )
            with other, server_process(*changed):
                pass
            before = set(actors("ShardActor"))
        with server_process(*changed, "--on-change", "restart") as third:
            assert not before & set(actors("ShardActor"))
            with attractor.Client(third.address) as client:
                assert client.memory("left/alone").store(ONE).version == 4
            told = pytest.raises(AssertionError, match="which the server with process id")
            with told, server_process(*flags, "--on-change", "restart"):  # which takes nothing from one that runs
                pass
            ended = stopped(nodes)
            assert (ended.returncode, ended.stderr) == (0, "")
            assert third.process.wait(60) == 0, drained(third.errors)
        until(lambda: not actors("ShardActor"))


def test_an_address_without_a_ray_cluster_is_told_in_one_line(models: Path) -> None:
    flags = ("--models", str(models), "--ray-address", "127.0.0.1:1")
    with pytest.raises(AssertionError, match="no Ray cluster can be joined"), server_process(*flags):
        pass
