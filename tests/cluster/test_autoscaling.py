"""Shards follow the nodes of a Ray cluster: one for each, as nodes come and go."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from tests.support.cluster_calls import scaled, topology
from tests.support.postgresql import PostgresServer
from tests.support.ray_nodes import EACH, actors, drain, ended, ray_cluster, raylet
from tests.support.server_process import COMMAND, drained, server_process, until
from tests.support.writer import Writer

from attractor_server.cluster.autoscaling import Autoscaler

WAIT_S = 60


class Nodes:
    """How many places there are, and a clock, both set by hand."""

    def __init__(self) -> None:
        self.places, self.now_s = 1, 0.0
        self.following = Autoscaler(lambda: self.places, clock=lambda: self.now_s, gone_s=30)

    def wanted(self, places: int, now_s: float, shards: int, *, whole: bool = True) -> int:
        self.places, self.now_s = places, now_s
        self.following.look()
        return self.following.target(shards, whole=whole)


def test_a_shard_is_added_for_a_new_node_but_not_while_another_one_may_be_lost() -> None:
    nodes = Nodes()
    assert nodes.wanted(3, 0, 2, whole=False) == 2
    assert nodes.wanted(3, 1, 2) == 3


def test_a_node_counts_until_it_has_been_gone_for_long() -> None:
    nodes = Nodes()
    assert nodes.wanted(3, 0, 3) == 3
    assert nodes.wanted(2, 29, 3) == 3
    assert nodes.wanted(3, 30, 3) == 3
    assert nodes.wanted(2, 59, 3) == 3
    assert nodes.wanted(2, 61, 3) == 2


def test_as_long_as_nobody_has_counted_nothing_changes() -> None:
    assert Autoscaler(lambda: 5).target(2, whole=True) == 2


@pytest.fixture
def growing() -> Iterator[Cluster]:
    """A head, which has no place for a shard."""
    with ray_cluster(beside=0) as cluster:
        yield cluster


def wait_in_vain(*arguments: str) -> str:
    """Return what a server says that finds no place, and kill it."""
    command = [*COMMAND, "serve", "--warm-up", "no", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process, process.stderr:
        told = next(line for line in process.stderr if "shards have not" in line)
        process.kill()
    return told


@pytest.mark.timeout(200)
def test_shards_come_and_go_with_the_nodes_and_clients_see_no_error(
    growing: Cluster, models: Path, postgres: PostgresServer, tmp_path: Path
) -> None:
    flags = (
        "--models",
        str(models),
        "--shards",
        "0",
        "--port",
        "0",
        "--advertise",
        "127.0.0.1",
        "--log-level",
        "info",
        "--insecure",
    )
    placed = ("--place-resource", "place", "--shard-log", str(tmp_path / "log"))
    kept = ("--backend-store-uri", postgres.store(), "--ray-address", growing.address)
    assert "1 of 1 shards have not started" in wait_in_vain(*flags, *placed, *kept)
    first = growing.add_node(**EACH, resources={"place": 1})
    with server_process(*flags, *placed, *kept) as server:

        def shards() -> int:
            seen = topology(server.address)
            return len(seen.shards) if len(set(seen.slot_owners)) == len(seen.shards) else 0

        assert shards() == 1
        assert [actor.ppid() for actor in actors("ShardActor")] == [raylet(first).pid]
        writers = [Writer(server.address, f"load/{n}") for n in range(3)]
        with writers[0].at_work(), writers[1].at_work(), writers[2].at_work():
            node = growing.add_node(**EACH, resources={"place": 1})
            until(lambda: shards() == 2, timeout_s=WAIT_S)
            moved = len(writers[0].versions)
            drain(growing, node)
            assert ended(raylet(node), timeout_s=WAIT_S)
            until(lambda: len(writers[0].versions) > moved)
            until(lambda: shards() == 1, timeout_s=WAIT_S)
            scaled(server, 1)
            assert not topology(server.address).follows_nodes
            scaled(server, 0)
            counts = [len(writer.versions) for writer in writers]
            until(lambda: all(len(w.versions) > count for w, count in zip(writers, counts, strict=True)))
        for writer in writers:
            assert writer.error is None, drained(server.errors)
            assert writer.versions == list(range(1, len(writer.versions) + 1))
        assert any("is on a node that will end" in line for line in drained(server.errors))
    assert {line.split(": ")[0].rpartition(" INFO ")[2] for line in (tmp_path / "log").read_text().splitlines()} >= {
        "shard 0",
        "shard 1",
    }
