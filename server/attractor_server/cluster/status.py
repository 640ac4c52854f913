"""What shards and their supervisor tell of themselves. Light: nothing here computes."""

import logging
from collections import deque
from dataclasses import dataclass

from attractor_server.sharding.topology import ShardInfo
from attractor_server.storage.process import Incarnation

ABANDONED_S = 5.0
"""Silence of the command that runs the server, after which another one may"""


@dataclass(frozen=True)
class ShardStatus:
    """What a shard tells of itself."""

    info: ShardInfo
    process: Incarnation
    models: tuple[str, ...]
    warm: bool
    """It can be told of the others, and will serve then"""
    epoch: int
    """Of the topology it follows; 0 after a restart, until it is told"""
    known: int
    """Epoch of the newest topology it was told"""
    held: frozenset[int]
    """Groups of slots that it has claimed; none where nothing is kept"""
    log: tuple[str, ...]
    """What it logged since it was asked last"""


@dataclass(frozen=True)
class SupervisorStatus:
    """What the supervisor tells of all shards."""

    addresses: tuple[str, ...]
    """Of the shards that were told of each other, by number; none before the first time"""
    settled: bool
    """Every shard that answers holds what it should, and there are as many as were asked for"""
    log: tuple[str, ...]
    """What it and the shards logged since it was asked last"""


class Logbook(logging.Handler):
    """Keeps the newest lines until they are asked for: the terminal is where the server was started, not here."""

    def __init__(self, name: str, *, lines: int = 1000) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s"))
        self._lines: deque[str] = deque(maxlen=lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one line."""
        self.keep(self.format(record))

    def keep(self, *lines: str) -> None:
        """Keeps lines that are complete."""
        self._lines.extend(lines)

    def taken(self) -> tuple[str, ...]:
        """The lines, which are forgotten here."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)
