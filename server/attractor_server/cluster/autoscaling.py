"""Autoscaling: the number of shards that a Ray cluster has places for, as its nodes come and go."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from attractor_server.cluster.shard_actor import ASKED_BYTES
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.slots import GROUPS

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0

GONE_S = 15.0
"""Time after which a node is taken to be gone for good; Ray calls it dead after 15 to 20 s of silence itself"""


def count_places(spec: ShardSpec) -> int:
    """Count one for each node that can carry a shard, of shards that need a GPU one for each; at least 1.

    Of shards that take a resource of their nodes, count that.
    """
    nodes: Sequence[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    leaving = find_leaving_nodes()
    resources = [node["Resources"] for node in nodes if node["Alive"] and node["NodeID"] not in leaving]
    if spec.place_resource:
        found = sum(int(one.get(spec.place_resource, 0)) for one in resources)
    elif spec.device == "cuda":
        found = sum(int(one.get("GPU", 0)) for one in resources)
    else:
        found = sum(one.get("memory", 0) >= ASKED_BYTES for one in resources)
    return min(max(found, 1), GROUPS)


def find_leaving_nodes() -> frozenset[str]:
    """Return the ids of nodes that Ray drains, since they were told to end; of a Ray that cannot tell, none."""
    try:
        return frozenset(ray._private.state.state.get_draining_nodes())  # noqa: SLF001 - the one way to be told
    except AttributeError:  # which Ray may take away without a word
        return frozenset()


class Autoscaler:
    """Nodes of the Ray cluster: how many shards there shall be where they follow them, and which nodes are to end.

    A thread looks: Ray's head may be away.
    """

    def __init__(
        self,
        look: Callable[[], int],
        *,
        find_leaving: Callable[[], frozenset[str]] = frozenset,
        clock: Callable[[], float] = time.monotonic,
        gone_s: float = GONE_S,
    ) -> None:
        """Ask `look` how many places there are, and `find_leaving` which nodes are to end."""
        self._look = look
        self._find_leaving = find_leaving
        self._clock = clock
        self._gone_s = gone_s
        self._places = 0
        self.leaving_nodes: frozenset[str] = frozenset()
        """Ids of nodes that will end in a moment"""
        self._enough_s = clock()
        """When there was last a place for each shard"""

    def start(self) -> None:
        """Look from now on, until the process ends."""
        threading.Thread(target=self._run, name="places", daemon=True).start()

    def look(self) -> None:
        """Look once."""
        self.leaving_nodes = self._find_leaving()
        self._places = self._look()

    def target(self, shards: int, *, whole: bool) -> int:
        """Return how many there shall be after so many; `whole` if all of them answer.

        While one does not answer none is added: its node may be lost and replaced, and Ray may still count it.
        """
        if self._places >= shards:
            self._enough_s = self._clock()
        if self._places > shards and whole:
            return self._places
        if 0 < self._places < shards and self._clock() - self._enough_s > self._gone_s:
            return self._places
        return shards

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:  # Ray's head is away, and may come back
                logger.exception("the nodes of the Ray cluster cannot be told")
            time.sleep(LOOK_EVERY_S)
