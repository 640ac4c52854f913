"""Shards and their supervisor as named Ray actors, which outlive whoever started them."""

import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError

from attractor_server.errors import SettingsError

logger = logging.getLogger(__name__)

Handle: TypeAlias = Any  # Ray's actor handles are made at run time

SUPERVISOR = "supervisor"


def find_shards() -> Sequence[Handle]:
    """Return the shards there are, from number 0 to the first one missing."""
    found: list[Handle] = []
    while (handle := _find(shard_name(len(found)))) is not None:
        found.append(handle)
    return found


def find_supervisor() -> Handle:
    """Return the supervisor.

    Raises:
        ValueError: there is none.
    """
    return ray.get_actor(SUPERVISOR)


def is_supervisor_gone() -> bool:
    """Return whether there is no supervisor any more: Ray starts one again that has ended by itself."""
    try:
        find_supervisor()
    except ValueError:
        return True
    except RayError as error:
        logger.debug("the supervisor: %s", error)
    return False


def end(handle: Handle) -> None:
    """End an actor for good."""
    ray.kill(handle, no_restart=True)


def shard_name(number: int) -> str:
    """Return the name of the actor of a shard."""
    return f"shard-{number}"


def _find(name: str) -> Handle | None:
    try:
        return ray.get_actor(name)
    except ValueError:
        return None


def start_actor(kind: type, name: str, options: dict[str, Any], *arguments: object) -> Handle:
    """Start a named actor, which outlives its starter and comes back whenever it ends.

    Raises:
        SettingsError: the name is taken.
    """
    actor: Handle = ray.remote(kind)
    try:
        return actor.options(
            name=name,
            lifetime="detached",  # else a shard would end with a supervisor that started it
            num_cpus=0,  # threads are shared out by the spec
            max_restarts=-1,
            max_task_retries=0,
            **options,
        ).remote(*arguments)
    except ValueError as error:  # the name is taken
        raise SettingsError(
            f"ray_address: another server runs in this Ray cluster already ({error}); expected its settings and no "
            "other command, or a cluster without shards: `attractor stop` ends them"
        ) from error
