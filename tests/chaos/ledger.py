"""What was acknowledged: an append-only file of the checker's own, synchronised before it goes on."""

import json
import os
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tests.support.tiny_models import IMAGE

Images: TypeAlias = NDArray[np.float32]
Event: TypeAlias = Literal["sent", "acknowledged", "failed"]


@dataclass
class History:
    """The stores of one memory, one pattern each and one after another; a store that failed is its last."""

    sent: int = 0
    answers: list[tuple[int, int]] = field(default_factory=list)
    """Version and patterns that each acknowledged store was told"""

    @property
    def acknowledged(self) -> int:
        return len(self.answers)


class Ledger:
    """Writes down what happens to the stores of many memories."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, event: Event, memory: str, *details: int | str) -> None:
        """On the disk when this returns, if it is an acknowledgement."""
        os.write(self._file, json.dumps([event, memory, *details]).encode() + b"\n")
        if event == "acknowledged":
            os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def histories(path: Path, prefix: str) -> Mapping[str, History]:
    """What a ledger says of the memories whose names begin so."""
    found: dict[str, History] = defaultdict(History)
    for line in path.read_text().splitlines():
        event, memory, *details = json.loads(line)
        if not memory.startswith(prefix):
            continue
        history = found[memory]
        if event == "sent":
            history.sent += 1
        elif event == "acknowledged":
            history.answers.append((details[0], details[1]))
    return found


def acknowledged(path: Path) -> int:
    """How many stores a ledger knows to have been acknowledged."""
    return sum(json.loads(line)[0] == "acknowledged" for line in path.read_text().splitlines())


def order_kept(path: Path, memory: str) -> Sequence[int]:
    """The numbers of a memory's patterns, in the order of the versions that their stores were told."""
    lines = map(json.loads, path.read_text().splitlines())
    told = [(details[0], details[2]) for event, name, *details in lines if (event, name) == ("acknowledged", memory)]
    return [number for _, number in sorted(told)]


def failures(path: Path) -> Sequence[str]:
    """What callers were told that a ledger says have failed."""
    lines = map(json.loads, path.read_text().splitlines())
    return [f"{memory}: {details[0]}" for event, memory, *details in lines if event == "failed"]


def patterns(memory: str, first: int, count: int = 1) -> Images:
    """Patterns (count, *shape) of a memory from that number on, the same whenever they are asked for."""
    seeds = [[zlib.crc32(memory.encode()), number] for number in range(first, first + count)]
    drawn = [np.random.default_rng(seed).random(IMAGE.shape, dtype=np.float32) for seed in seeds]
    return np.stack(drawn) if drawn else np.empty((0, *IMAGE.shape), np.float32)
