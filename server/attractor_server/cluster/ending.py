"""The end of shards: they finish what they accepted, and are gone."""

import logging
from collections.abc import Sequence
from contextlib import suppress

import ray
from ray.exceptions import RayError

from attractor_server.cluster.actors import Handle, end, find_shards, find_supervisor
from attractor_server.errors import SettingsError

logger = logging.getLogger(__name__)

MARGIN_S = 5.0
"""Time for an answer beyond what it is about"""


def stop_shards(grace_s: float) -> bool:
    """End the server in this Ray cluster, after shards have finished what they accepted; return whether all could.

    Raises:
        SettingsError: there is none.
    """
    shards = find_shards()
    with suppress(ValueError):
        end(find_supervisor())
    if not shards:
        raise SettingsError("ray_address: no server runs in this Ray cluster")
    finished = drain(shards, grace_s)
    end_all(find_shards())
    return finished


def drain(shards: Sequence[Handle], grace_s: float) -> bool:
    """Let shards finish what they accepted; return whether all of them could."""
    asked = [handle.drain.remote(grace_s) for handle in shards]
    done, _ = ray.wait(asked, num_returns=len(asked), timeout=grace_s + MARGIN_S)
    finished = 0
    for answer in done:
        try:
            finished += ray.get(answer)
        except RayError as error:
            logger.warning("a shard ended before it was drained: %s", error)
    return finished == len(asked)


def end_all(handles: Sequence[Handle]) -> None:
    """End actors for good."""
    for handle in handles:
        end(handle)
