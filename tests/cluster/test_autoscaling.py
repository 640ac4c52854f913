"""Shards follow the nodes of a Ray cluster: one for each, as nodes come and go."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from tests.support.cluster_calls import scaled, topology
from tests.support.postgresql import PostgresServer
from tests.support.ray_nodes import EACH, ray_cluster
from tests.support.server_process import drained, server_process, until
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
    with ray_cluster(beside=0) as cluster:
        yield cluster


@pytest.mark.timeout(200)
def test_shards_come_and_go_with_the_nodes_and_clients_see_no_error(
    growing: Cluster, models: Path, postgres: PostgresServer
) -> None:
    flags = ("--models", str(models), "--shards", "0", "--port", "0", "--advertise", "127.0.0.1")
    kept = ("--backend-store-uri", postgres.store(), "--ray-address", growing.address)
    with server_process(*flags, *kept) as server:

        def shards() -> int:
            seen = topology(server.address)
            return len(seen.shards) if len(set(seen.slot_owners)) == len(seen.shards) else 0

        assert shards() == 1
        writers = [Writer(server.address, f"load/{n}") for n in range(3)]
        with writers[0].at_work(), writers[1].at_work(), writers[2].at_work():
            node = growing.add_node(**EACH)
            until(lambda: shards() == 2, timeout_s=WAIT_S)
            growing.remove_node(node)
            until(lambda: shards() == 1, timeout_s=WAIT_S)
            scaled(server, 2)
            assert not topology(server.address).follows_nodes
            scaled(server, 0)
            counts = [len(writer.versions) for writer in writers]
            until(lambda: all(len(w.versions) > count for w, count in zip(writers, counts, strict=True)))
        for writer in writers:
            assert writer.error is None, drained(server.errors)
            assert writer.versions == list(range(1, len(writer.versions) + 1))
