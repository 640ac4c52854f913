"""Status of shards and of their supervisor. Light: nothing here computes."""

import logging
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from attractor_server.logs import Facts
from attractor_server.sharding.topology import ShardInfo
from attractor_server.storage.process import Incarnation

logger = logging.getLogger(__name__)

ABANDONED_S = 5.0
"""Silence of the command that runs the server, after which another one may"""


@dataclass(frozen=True)
class ShardStatus:
    """Status of a shard, as it says."""

    info: ShardInfo
    process: Incarnation
    models: tuple[str, ...]
    warm: bool
    """It can be sent a topology, and will serve then"""
    epoch: int
    """Epoch of the topology it follows; 0 after a restart, until it is sent one"""
    known: int
    """Epoch of the newest topology it was sent"""
    held: frozenset[int]
    """Groups of slots that it has claimed; none where nothing is kept"""
    log: tuple[str, ...]
    """Lines that it logged since it was asked last"""
    node: str = ""
    """Ray's id of the node it is on"""


@dataclass(frozen=True)
class SupervisorStatus:
    """Status of all shards, as the supervisor says."""

    addresses: tuple[str, ...]
    """Of the shards that were told of each other, by number; none before the first time"""
    settled: bool
    """Every shard that answers holds what it should, and there are as many as were asked for"""
    log: tuple[str, ...]
    """Lines that it and the shards logged since it was asked last"""
    lacks_password: bool = False
    """It was started anew, and shards that start wait until it is given the password of the store"""


class Logbook(logging.Handler):
    """The newest lines, kept until they are asked for: the terminal is where the server was started, not here."""

    def __init__(self, *, lines: int = 1000) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.keep(self.format(record))

    def keep(self, *lines: str) -> None:
        """Keep lines that are complete."""
        self._lines.extend(lines)

    def take(self) -> tuple[str, ...]:
        """Return the lines, and forget them here."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)


def add_log_file(file: Path, formatter: logging.Formatter, facts: Facts) -> None:
    """Log to a file as well; one that cannot be written is told, and done without."""
    try:
        handler = logging.FileHandler(file)
    except OSError as error:
        logger.warning("the shard does not log to %s: %s", file, error)
        return
    handler.setFormatter(formatter)
    handler.addFilter(facts)
    logging.getLogger().addHandler(handler)
