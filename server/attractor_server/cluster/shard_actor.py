"""A shard as a Ray actor. Its constructor starts the gRPC server: after a crash only that runs again."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import ray
from anyio.from_thread import start_blocking_portal
from ray.exceptions import RayError

from attractor_server.cluster.actors import Handle, find_supervisor, shard_name, start_actor
from attractor_server.cluster.ray_node import node_address
from attractor_server.cluster.status import Logbook, ShardStatus, add_log_file
from attractor_server.cluster.wire import (
    Message,
    pack_spec,
    pack_status,
    pack_topology,
    unpack_spec,
    unpack_topology,
)
from attractor_server.errors import Unavailable
from attractor_server.logs import Facts, log_to, make_formatter
from attractor_server.shard.event_loop import freeze_heap, loop_options
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.process import Incarnation

if TYPE_CHECKING:
    from attractor_server.app import RunningShard


ASKED_BYTES = 1 << 20
"""Memory of a shard's node, as Ray counts: an actor that asks for nothing is put on any node, SPREAD or not"""


def start_shard(spec: ShardSpec, number: int, log_level: str) -> Handle:
    """Start a shard of that number, that Ray starts again whenever it ends.

    Its port is its own, unless the spec has several: then it is the first that is free where it runs.

    Raises:
        SettingsError: there is one already.
    """
    from attractor_server.cluster.shard_actor import ShardActor  # noqa: PLC0415 - which imports this module

    options = {
        "num_gpus": 1 if spec.device == "cuda" else 0,
        "max_concurrency": 4,
        "memory": ASKED_BYTES,
        "scheduling_strategy": "SPREAD",
        "resources": {spec.place_resource: 1} if spec.place_resource else {},
    }
    follows = spec.follows if number == 0 else 0
    port = follows or (spec.port + number if spec.port and spec.ports == 1 else spec.port)
    admin_port = spec.admin_port and (spec.admin_port + number if spec.ports == 1 else spec.admin_port)
    own = replace(spec, number=number, port=port, admin_port=admin_port, follows=follows)
    return start_actor(ShardActor, shard_name(number), options, pack_spec(own), log_level)


logger = logging.getLogger(__name__)

RESIZE_TIMEOUT_S = 10.0

ASK_EVERY_S = 0.1

FAREWELL_S = 1.0
"""Time in which the supervisor fetches what was logged"""


class ShardActor:
    """One shard, on an event loop in a thread of its own; Ray's calls carry control traffic only."""

    def __init__(self, told: Message, log_level: str) -> None:
        """Return once the shard listens. A spec with an empty `advertise` means this node's own address."""
        spec = unpack_spec(told)
        self._logbook = Logbook()
        formatter = make_formatter(spec.log_format, f"shard {spec.number}")
        self._facts = Facts(shard=spec.number, epoch=0)
        log_to(log_level, self._logbook, logging.StreamHandler(), formatter=formatter, facts=self._facts)
        if spec.log_file is not None:
            add_log_file(spec.log_file, formatter, self._facts)
        self._process = Incarnation.here(f"shard-{spec.number}")
        spec = replace(spec, advertise=spec.advertise or node_address())
        if spec.asks_password:
            spec = replace(spec, password=_ask_password())
        with ExitStack() as stack:
            portal = stack.enter_context(
                start_blocking_portal("asyncio", dict(loop_options()), name=f"shard {spec.number}")
            )
            self._shard = stack.enter_context(portal.wrap_async_context_manager(_run_shard(spec)))
            self._portal = portal
            self._stack = stack.pop_all()
        freeze_heap()

    def status(self) -> Message:
        """Return its status now; fail if its event loop has ended."""
        self._portal.call(_breathe)
        shard = self._shard
        status = ShardStatus(
            info=shard.info,
            process=self._process,
            models=tuple(shard.models),
            warm=shard.warm,
            epoch=shard.epoch,
            known=shard.topology.epoch if shard.topology else 0,
            held=shard.held,
            log=self._logbook.take(),
            node=ray.get_runtime_context().get_node_id(),
        )
        return pack_status(status)

    def topology(self) -> Message | None:
        """Return the newest topology that it was sent."""
        topology = self._shard.topology
        return None if topology is None else pack_topology(topology)

    def learn(self, told: Message, seize: Collection[int] = ()) -> None:
        """Take over a topology, and the groups of `seize` from whoever has them; it serves from the first time on."""
        topology = unpack_topology(told)
        self._facts.update(epoch=topology.epoch)
        self._portal.call(partial(self._shard.learn, topology, seize=seize))

    def drain(self, grace_s: float) -> bool:
        """Send clients away and stop; return whether everything that was accepted is finished."""
        return self._portal.call(partial(self._shard.drain, grace_s))


@asynccontextmanager
async def _run_shard(spec: ShardSpec) -> AsyncIterator["RunningShard"]:
    """Run a shard; where it ends by an error so does the process, and Ray starts another one."""
    from attractor_server.app import run_shard  # noqa: PLC0415 - loads torch

    serves = False
    try:
        async with run_shard(spec, resize=_resize) as shard:
            serves = True
            yield shard
    except Exception:
        if not serves:
            raise
        logger.critical("the shard has ended, and its process ends", exc_info=True)
        await asyncio.sleep(FAREWELL_S)
        os._exit(1)


def _ask_password() -> str:
    """Return the password of the store, once the supervisor is there and was given it."""
    while True:
        with suppress(RayError, ValueError):
            password: str | None = ray.get(find_supervisor().password.remote(), timeout=RESIZE_TIMEOUT_S)
            if password is not None:
                return password
        time.sleep(ASK_EVERY_S)


async def _breathe() -> None:
    """Do nothing, on the shard's event loop, if that still runs."""


async def _resize(shards: int) -> None:
    """Ask the supervisor for so many shards.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        await asyncio.wait_for(_ask_supervisor(shards), RESIZE_TIMEOUT_S)
    except (RayError, ValueError, TimeoutError) as error:
        raise Unavailable(f"the supervisor of the shards does not answer; try again in a moment: {error}") from error


async def _ask_supervisor(shards: int) -> None:
    supervisor = await asyncio.to_thread(find_supervisor)  # which blocks for as long as Ray's head is away
    await asyncio.wrap_future(supervisor.scale.remote(shards).future())
