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
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if spec.place_resource:
        found = sum(int(one.get(spec.place_resource, 0)) for one in resources)
    elif spec.device == "cuda":
        found = sum(int(one.get("GPU", 0)) for one in resources)
    else:
        found = sum(one.get("memory", 0) >= ASKED_BYTES for one in resources)
    return min(max(found, 1), GROUPS)


class Autoscaler:
    """The number of shards there shall be where they follow the nodes. A thread looks: Ray's head may be away."""

    def __init__(
        self, look: Callable[[], int], *, clock: Callable[[], float] = time.monotonic, gone_s: float = GONE_S
    ) -> None:
        """Ask `look` how many places there are."""
        self._look = look
        self._clock = clock
        self._gone_s = gone_s
        self._places = 0
        self._enough_s = clock()
        """When there was last a place for each shard"""

    def start(self) -> None:
        """Look from now on, until the process ends."""
        threading.Thread(target=self._run, name="places", daemon=True).start()

    def look(self) -> None:
        """Count the places once."""
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
