"""Nodes of a Ray cluster on this machine, and how one is lost."""

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

GONE_S = 30.0


def raylet(node: "Node | None") -> psutil.Process:
    """The process that starts a node's actors, which are its children."""
    assert node is not None
    (one,) = node.all_processes["raylet"]
    return psutil.Process(one.process.pid)


def lose(cluster: "Cluster", node: "Node") -> None:
    """Kills a node; returns when its last process is gone, which goes on for seconds."""
    actors = raylet(node).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    psutil.wait_procs(actors, GONE_S)
