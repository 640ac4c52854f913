"""Nodes of a Ray cluster on this machine, and how one is lost."""

from typing import TYPE_CHECKING, cast

import psutil
from tests.cluster.process import shards_among

if TYPE_CHECKING:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

GONE_S = 30.0


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
