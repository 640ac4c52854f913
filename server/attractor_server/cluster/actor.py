"""A shard as a Ray actor. Its constructor starts the gRPC server: after a crash only that runs again."""

import logging
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from anyio.from_thread import start_blocking_portal

from attractor_server.app import ShardSpec, running_shard
from attractor_server.cluster.node import node_address
from attractor_server.loop import loop_options
from attractor_server.topology import ShardInfo, Topology


@dataclass(frozen=True)
class ShardStatus:
    """What a shard tells of itself."""

    info: ShardInfo
    models: tuple[str, ...]
    warm: bool
    """It can be told of the others, and will serve then"""
    epoch: int
    """Of the topology it knows; 0 after a restart, until it is told"""
    log: tuple[str, ...]
    """What it logged since it was asked last"""


class ShardActor:
    """Runs one shard on an event loop in a thread of its own; Ray's calls carry control traffic only."""

    def __init__(self, spec: ShardSpec, log_level: str) -> None:
        """Returns once the shard listens. An empty `spec.advertise` means this node's own address."""
        self._logbook = Logbook(f"shard {spec.number}")
        logging.basicConfig(level=log_level.upper(), handlers=[self._logbook, logging.StreamHandler()])
        spec = replace(spec, advertise=spec.advertise or node_address())
        with ExitStack() as stack:
            portal = stack.enter_context(
                start_blocking_portal("asyncio", dict(loop_options()), name=f"shard {spec.number}")
            )
            self._shard = stack.enter_context(portal.wrap_async_context_manager(running_shard(spec)))
            self._portal = portal
            self._stack = stack.pop_all()

    def status(self) -> ShardStatus:
        """How it is now; fails if its event loop is no more."""
        self._portal.call(_breathe)
        shard = self._shard
        return ShardStatus(shard.info, tuple(shard.models), shard.warm, shard.epoch, self._logbook.taken())

    def learn(self, topology: Topology) -> None:
        """Tells it of the others; from the first time on it serves."""
        self._portal.call(partial(self._shard.learn, topology))

    def drain(self, grace_s: float) -> bool:
        """Sends clients away and stops. Whether everything that was accepted is finished."""
        return self._portal.call(partial(self._shard.drain, grace_s))


class Logbook(logging.Handler):
    """Keeps the newest lines until they are asked for: the terminal is where the server was started, not here."""

    def __init__(self, name: str, *, lines: int = 1000) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s"))
        self._lines: deque[str] = deque(maxlen=lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one line."""
        self._lines.append(self.format(record))

    def taken(self) -> tuple[str, ...]:
        """The lines, which are forgotten here."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)


async def _breathe() -> None:
    """Runs on the shard's event loop, if that still turns."""
