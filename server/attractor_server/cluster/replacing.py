"""A server whose settings have changed: its shards end, and others start, where that is asked for."""

import logging
import time
from collections.abc import Sequence

import ray
from ray.exceptions import RayError

from attractor_server.cluster.actors import Handle, find_shards, is_supervisor_gone
from attractor_server.cluster.ending import stop_shards
from attractor_server.cluster.wire import Message

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0

ASK_EVERY_S = 0.5

GONE_TIMEOUT_S = 10.0
"""Time that Ray is given to free the names of those that have ended"""


def end_former_server(supervisor: Handle, settings: Message, changed: Sequence[str], *, grace_s: float) -> bool:
    """End a server that no command has, after what it accepted; return False if one has it all the time."""
    if not _is_abandoned(supervisor, settings, within_s=grace_s):
        return False
    logger.warning("settings have changed (%s): the shards end, and others start with the new ones", ", ".join(changed))
    if not stop_shards(grace_s):
        logger.warning("some requests were cut off after %g s", grace_s)
    end_s = time.monotonic() + GONE_TIMEOUT_S
    while (find_shards() or not is_supervisor_gone()) and time.monotonic() < end_s:
        time.sleep(ASK_EVERY_S)
    return True


def _is_abandoned(supervisor: Handle, settings: Message, *, within_s: float) -> bool:
    """Take the server over as it is, so that no other command does; return False if one has it all the time."""
    own = {name: value for name, value in settings.items() if name != "slots"}
    end_s = time.monotonic() + within_s
    while True:
        try:
            if ray.get(supervisor.adopt.remote(own, settings["slots"]), timeout=ANSWER_TIMEOUT_S):
                return True
        except RayError as error:
            logger.debug("the supervisor: %s", error)
        if time.monotonic() > end_s:
            return False
        time.sleep(ASK_EVERY_S)
