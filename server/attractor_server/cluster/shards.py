"""Shards and their supervisor as named Ray actors, which outlive whoever started them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import ray

from attractor_server.errors import SettingsError
from attractor_server.spec import ShardSpec

Handle: TypeAlias = Any  # Ray's actor handles are made at run time

SUPERVISOR = "supervisor"
ASKED_BYTES = 1 << 20
"""Of a shard's node, as Ray counts: an actor that asks for nothing is put on any node, and SPREAD is not looked at"""

HEAD, HEAD_SHARE = "node:__internal_head__", 0.001
"""A resource of Ray's head node, and what the supervisor asks of it: Ray is slow to see that another one is lost"""


def start_shard(spec: ShardSpec, number: int, log_level: str) -> Handle:
    """A shard of that number, with a port of its own, that Ray starts again whenever it ends.

    Raises:
        SettingsError: there is one already.
    """
    from attractor_server.cluster.actor import ShardActor  # noqa: PLC0415 - which imports this module

    options = {
        "num_gpus": 1 if spec.device == "cuda" else 0,
        "max_concurrency": 4,
        "memory": ASKED_BYTES,
        "scheduling_strategy": "SPREAD",
    }
    follows = spec.follows if number == 0 else 0
    port = follows or (spec.port + number if spec.port else 0)
    own = replace(spec, number=number, port=port, follows=follows)
    return _start(ShardActor, _name(number), options, own, log_level)


def start_supervisor(spec: ShardSpec, slots: int, log_level: str, *, follows_nodes: bool) -> Handle:
    """The supervisor of the shards that were started before it; where they follow a stand-in it waits to be asked.

    Raises:
        SettingsError: there is one already.
    """
    from attractor_server.cluster.supervisor import Supervisor  # noqa: PLC0415 - which imports this module

    options = {"max_concurrency": 4, "resources": {HEAD: HEAD_SHARE}}
    return _start(Supervisor, SUPERVISOR, options, spec, slots, log_level, follows_nodes)


def find_shards() -> Sequence[Handle]:
    """The shards there are, from number 0 to the first one missing."""
    found: list[Handle] = []
    while (handle := _found(_name(len(found)))) is not None:
        found.append(handle)
    return found


def find_supervisor() -> Handle:
    """The supervisor.

    Raises:
        ValueError: there is none.
    """
    return ray.get_actor(SUPERVISOR)


def end(handle: Handle) -> None:
    """Ends an actor for good."""
    ray.kill(handle, no_restart=True)


def _name(number: int) -> str:
    return f"shard-{number}"


def _found(name: str) -> Handle | None:
    try:
        return ray.get_actor(name)
    except ValueError:
        return None


def _start(kind: type, name: str, options: dict[str, Any], *arguments: object) -> Handle:
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
            f"ray_address: another server runs in this Ray cluster already ({error}); expected one without shards"
        ) from error
