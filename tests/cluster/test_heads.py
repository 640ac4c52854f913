"""The head of a Ray cluster goes away, under a server that has its shards there and its memories in PostgreSQL."""

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
from tests.support.ray_nodes import free_port, head, head_of, ray_cluster
from tests.support.server_process import server_process, until

import attractor
from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memories_pb2_grpc as rpc
from attractor_server.cluster import cluster as module
from attractor_server.errors import Unavailable

ONE = np.full((4, 4), 0.5, np.float32)
PASSWORD = "Gqx9Zt7kMarker"


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose head keeps what it knows."""
    with ray_cluster(beside=1, **head(tmp_path / "gcs"), gcs_server_port=free_port()) as cluster:
        yield cluster


def test_shards_serve_on_while_the_head_is_away_even_one_that_is_asked_to_scale(
    lasting: Cluster, models: Path, postgres: PostgresServer, tmp_path: Path
) -> None:
    flags = ("--models", str(models), "--shards", "2", "--port", "0", "--advertise", "127.0.0.1")
    uri = postgres.store().replace("attractor@", f"attractor:{PASSWORD}@")
    kept = ("--backend-store-uri", uri, "--ray-address", lasting.address)
    with server_process(*flags, *kept) as server, attractor.Client(server.address, timeout_s=8) as client:
        memories = [client.create_memory(f"away/{n}", model="tiny") for n in range(8)]
        node = head_of(lasting)
        node.kill_gcs_server()
        with grpc.insecure_channel(server.address) as channel:
            asked = rpc.ClusterStub(channel).Scale.future(pb.ScaleRequest(shards=1), timeout=60)
            for _ in range(3):
                for memory in memories:
                    memory.store(ONE)
            asked.cancel()
        node.start_gcs_server()  # type: ignore[no-untyped-call]
        until(lambda: len(topology(server.address).shards) > 0)
        scaled(server, 1)
        scaled(server, 2)
        assert [memory.store(ONE).version for memory in memories] == [4] * 8
    folder = Path(node.get_session_dir_path())  # type: ignore[no-untyped-call]
    logs = [path for path in folder.rglob("*") if path.is_file()]
    kept_by_ray = [*(tmp_path / "gcs").rglob("*"), *logs]
    assert len(kept_by_ray) > len(logs)
    assert not [path for path in kept_by_ray if path.is_file() and PASSWORD.encode() in path.read_bytes()]


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
