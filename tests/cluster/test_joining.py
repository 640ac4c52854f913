"""`attractor serve --ray-address`: shards on the nodes of a Ray cluster that runs already."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster
from tests.support.cluster_calls import topology
from tests.support.ray_nodes import actors, free_port, head_of, ray_cluster, raylet
from tests.support.server_process import COMMAND, drained, server_process, until

import attractor
from attractor_server.cluster.status import ABANDONED_S

ONE = np.full((4, 4), 0.5, np.float32)


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    with ray_cluster(beside=1) as cluster:
        yield cluster


def stopped(cluster: Cluster) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, "stop", "--ray-address", cluster.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_server_joins_a_ray_cluster_and_leaves_it_running(two_nodes: Cluster, models: Path) -> None:
    flags = ("--ray-address", two_nodes.address, "--shards", "2", "--port", "0", "--on-stop", "end")
    for refuses in (True, False):
        with server_process("--models", str(models), *flags) as server:
            with attractor.Client(server.address) as client:
                for n in range(4):
                    assert client.create_memory(f"joined/{n}", model="tiny").store(ONE).version == 1
            if refuses:
                told = pytest.raises(AssertionError, match="another server runs in this Ray cluster")
                with told, server_process("--models", str(models), *flags):
                    pass
            assert server.stop() == 0, drained(server.errors)


def test_shards_are_spread_over_the_nodes_of_a_cluster_and_the_supervisor_is_on_the_head(
    two_nodes: Cluster, models: Path
) -> None:
    two_nodes.add_node(num_cpus=1)
    first = free_port()
    flags = ("--ray-address", two_nodes.address, "--shards", "3", "--port", str(first), "--advertise", "127.0.0.1")
    with socket.create_server(("", first + 1)), server_process("--models", str(models), *flags) as server:
        nodes = [actor.ppid() for actor in actors("ShardActor")]
        (supervisor,) = actors("Supervisor")
        assert len(nodes) == len(set(nodes)) == 3
        assert supervisor.ppid() == raylet(head_of(two_nodes)).pid
        ports = {int(shard.address.rpartition(":")[2]) for shard in topology(server.address).shards}
        assert first in ports
        assert first + 1 not in ports
        assert len(ports) == 3


def test_shards_outlive_their_command_and_another_one_goes_on_with_them(two_nodes: Cluster, models: Path) -> None:
    flags = ("--models", str(models), "--ray-address", two_nodes.address, "--shards", "2", "--port", "0")
    with server_process(*flags, "--advertise", "127.0.0.1") as server:
        server.process.kill()
        server.process.wait(60)
        with attractor.Client(server.address) as client:
            assert client.create_memory("left/alone", model="tiny").store(ONE).version == 1
            time.sleep(ABANDONED_S)
            with server_process(*flags, "--advertise", "127.0.0.1") as successor:
                assert successor.address == server.address
                assert client.memory("left/alone").store(ONE).version == 2
                assert successor.stop() == 0, drained(successor.errors)
            assert client.memory("left/alone").store(ONE).version == 3
            other = pytest.raises(
                AssertionError, match=r"has other settings \(batch_patterns, batch_s\); expected the same"
            )
            with other, server_process(*flags, "--advertise", "127.0.0.1", "--batch-ms", "30", "--batch-patterns", "9"):
                pass
            with server_process(*flags, "--advertise", "127.0.0.1") as third:
                assert third.address == server.address
                ended = stopped(two_nodes)
                assert (ended.returncode, ended.stderr) == (0, "")
                assert third.process.wait(60) == 0, drained(third.errors)
            until(lambda: not actors("ShardActor"))
    assert "no server runs in this Ray cluster" in stopped(two_nodes).stderr


def test_an_address_without_a_ray_cluster_is_told_in_one_line(models: Path) -> None:
    flags = ("--models", str(models), "--ray-address", "127.0.0.1:1")
    with pytest.raises(AssertionError, match="no Ray cluster can be joined"), server_process(*flags):
        pass
