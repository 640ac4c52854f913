"""Nodes of a Ray cluster on this machine, and how one is lost."""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil
from tests.support.server_process import shards_among, words

if TYPE_CHECKING:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

GONE_S = 30.0
DRAINING_S, PREEMPTION = 120.0, 2
"""Time that a node is given to end, and Ray's number of a reason that no node may refuse"""
EACH: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 80 << 20,
    "no_monitor": True,
    "include_log_monitor": False,
}
"""What a node is started with: neither asks for more nodes, nor has a terminal for logs"""


@contextmanager
def ray_cluster(*, beside: int, **head: object) -> Iterator["Cluster"]:
    """A Ray cluster of a head, started with that as well, and so many nodes beside it."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - takes seconds

    import attractor_server.cluster  # noqa: F401, PLC0415 - sets what Ray reads while it is imported

    cluster = Cluster(initialize_head=True, head_node_args={**EACH, "include_dashboard": False, **head})
    try:
        for _ in range(beside):
            cluster.add_node(**EACH)
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def head_of(cluster: "Cluster") -> "Node":
    """The head node, which is there."""
    return cast("Node", cluster.head_node)


def raylet(node: "Node") -> psutil.Process:
    """The process that starts a node's actors, which are its children."""
    (one,) = node.all_processes["raylet"]
    return psutil.Process(one.process.pid)


def below() -> dict[int, psutil.Process]:
    """The processes of all shards that this process's Ray nodes have, by the port each listens on."""
    return shards_among(psutil.Process().children(recursive=True))


def lose(cluster: "Cluster", node: "Node") -> None:
    """Kills a node; returns when its last process is gone, which goes on for seconds."""
    actors = raylet(node).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    psutil.wait_procs(actors, GONE_S)


def head(folder: Path | None) -> Mapping[str, Any]:
    """What a head node is started with, always at one port; what it knows outlives it in that folder, if any."""
    kept = {"gcs_storage": "rocksdb", "gcs_storage_path": str(folder)} if folder is not None else {}
    return {**EACH, "include_dashboard": False, "_system_config": kept}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def actors(kind: str) -> list[psutil.Process]:
    """The processes of all actors of a kind that this process's Ray nodes have."""
    return [child for child in psutil.Process().children(recursive=True) if any(kind in word for word in words(child))]


def drain(cluster: "Cluster", node: "Node") -> None:
    """Tells Ray that a node will end, as `ray start` does when it is told to."""
    deadline_ms = round((time.time() + DRAINING_S) * 1000)
    head = head_of(cluster).get_gcs_client()  # type: ignore[no-untyped-call]
    accepted, why = head.drain_node(node.node_id, PREEMPTION, "a test", deadline_ms)
    assert accepted, why


def ended(process: psutil.Process, timeout_s: float) -> bool:
    """Whether a process ends in time."""
    return not psutil.wait_procs([process], timeout_s)[1]
