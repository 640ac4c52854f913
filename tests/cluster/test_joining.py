"""`attractor serve --ray-address`: shards on the nodes of a Ray cluster that runs already, and whose head goes away."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from ray.cluster_utils import Cluster
from ray.exceptions import RayError
from tests.support.cluster_calls import scaled, topology
from tests.support.postgresql import PostgresServer
from tests.support.ray_nodes import actors, free_port, head, head_of, ray_cluster, raylet
from tests.support.server_process import COMMAND, drained, server_process, until

import attractor
from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memories_pb2_grpc as rpc
from attractor_server.cluster import cluster as module
from attractor_server.errors import Unavailable

ONE = np.full((4, 4), 0.5, np.float32)
PASSWORD = "Gqx9Zt7kMarker"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the head keeps what it knows."""
    return tmp_path_factory.mktemp("gcs")


@pytest.fixture(scope="module")
def nodes(known: Path) -> Iterator[Cluster]:
    """A head that outlives its end, and two nodes beside it."""
    with ray_cluster(beside=2, **head(known), gcs_server_port=free_port()) as cluster:
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
    places = ("--ray-address", nodes.address, "--port", "0", "--advertise", "127.0.0.1")
    flags = ("--models", str(models), "--shards", "2", "--data-dir", str(tmp_path / "data"), *places)
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


def test_shards_serve_on_while_the_head_is_away_even_one_that_is_asked_to_scale(
    nodes: Cluster, known: Path, models: Path, postgres: PostgresServer
) -> None:
    flags = ("--models", str(models), "--shards", "2", "--port", "0", "--advertise", "127.0.0.1")
    uri = postgres.store().replace("attractor@", f"attractor:{PASSWORD}@")
    with server_process(*flags, "--backend-store-uri", uri, "--ray-address", nodes.address) as server:
        with attractor.Client(server.address, timeout_s=8) as client:
            memories = [client.create_memory(f"away/{n}", model="tiny") for n in range(8)]
            head_of(nodes).kill_gcs_server()
            with grpc.insecure_channel(server.address) as channel:
                asked = rpc.ClusterStub(channel).Scale.future(pb.ScaleRequest(shards=1), timeout=60)
                for _ in range(3):
                    for memory in memories:
                        memory.store(ONE)
                asked.cancel()
            head_of(nodes).start_gcs_server()  # type: ignore[no-untyped-call]
            until(lambda: len(topology(server.address).shards) > 0)
            scaled(server, 1)
            scaled(server, 2)
            assert [memory.store(ONE).version for memory in memories] == [4] * 8
        ended = stopped(nodes)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert server.process.wait(60) == 0, drained(server.errors)
    until(lambda: not actors("ShardActor"))
    folder = Path(head_of(nodes).get_session_dir_path())  # type: ignore[no-untyped-call]
    logs = [path for path in folder.rglob("*") if path.is_file()]
    kept_by_ray = [*known.rglob("*"), *logs]
    assert len(kept_by_ray) > len(logs)
    assert not [path for path in kept_by_ray if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def test_an_address_without_a_ray_cluster_is_told_in_one_line(models: Path) -> None:
    flags = ("--models", str(models), "--ray-address", "127.0.0.1:1")
    with pytest.raises(AssertionError, match="no Ray cluster can be joined"), server_process(*flags):
        pass


class Silent:
    """A supervisor that cannot be reached."""

    class status:  # noqa: N801 - called like an actor's method
        @staticmethod
        def remote() -> object:
            raise RayError


def test_a_command_that_has_lost_the_supervisor_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    running = module.Cluster(Silent, [])
    running.check()
    monkeypatch.setattr(module, "LOST_S", 0.0)
    monkeypatch.setattr(module, "LISTEN_EVERY_S", 0.01)
    listener = threading.Thread(target=running.listen)
    listener.start()
    with pytest.raises(Unavailable, match="the supervisor has not answered"):
        running.check()
    running.stop()
    listener.join(10)
