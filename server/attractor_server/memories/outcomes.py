"""Outcomes of jobs."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attractor_server.errors import Cancelled, ServerError, forget_frames
from attractor_server.memories.records import Item, Snapshot, StoredMemory
from attractor_server.memories.search import Found

Floats: TypeAlias = NDArray[np.float32]

Booleans: TypeAlias = NDArray[np.bool_]

Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Stored:
    """A store was applied: the memory's version and number of patterns after it."""

    version: int
    patterns: int
    existing: Sequence[str | None] = ()
    """For each pattern the id of the similar one for which it was left out; None where it was stored"""


@dataclass(frozen=True)
class Erased:
    """An erase was applied: the memory's version after it, and the patterns left."""

    version: int
    patterns: int
    items: int | None = None
    """Items that it took away, of an erase that chose them; not known of a repeat"""


@dataclass(frozen=True)
class Matches:
    """For each of n completed patterns k kept ones, the one that is meant most probably, or else is nearest, first.

    What there is of a pattern's matches stands side by side.
    """

    values: Floats
    """(n·k, d) in user units; zeros where no more are kept"""
    distances: Floats
    """(n·k,) from the completed pattern, Euclidean; infinite where no more are kept"""
    items: Sequence[Item]
    """(n·k,)"""
    probability: Floats | None = None
    """(n·k,) that the cue is of this pattern; None where the network answers alone"""
    each: int = 1
    """k"""


@dataclass(frozen=True, slots=True)
class Directions:
    """A cue and its reading in network units, and in the frame of the page that was read."""

    cue: Floats
    """(n, entries)"""
    reading: Floats
    """(n, entries)"""


@dataclass(slots=True)  # not frozen: that would double what it costs to make one
class Recalled:
    """Completed patterns (n, d) in user units, with a score for each."""

    values: Floats
    energy_before: Floats
    energy_after: Floats
    delta_energy: Floats
    steps: int
    iterates: Floats | None = None
    """(steps + 1, n, d), the cue first"""
    energies: Floats | None = None
    """(steps + 1, n)"""
    pages: Integers | None = None
    """(n,) which page of the memory, counted from the oldest, answered each; None where that is 0 for all"""
    matches: Matches | None = None
    """Where they were asked for"""
    probability: Floats | None = None
    """(n,) that the cue is of a kept pattern; None where the network answers alone"""
    directions: Directions | None = None
    """Until kept patterns have taken part in the answer"""


@dataclass(frozen=True)
class Recognized:
    """Energies (n,) of patterns, and how far below those in an empty memory they lie."""

    energy: Floats
    delta_energy: Floats
    probability: Floats | None = None
    """(n,) that they are stored; None where the model is not calibrated"""
    pages: Integers | None = None
    """(n,) which page of the memory, counted from the oldest, knows each best; None where that is 0 for all"""


@dataclass(frozen=True)
class Deleted:
    """The memory's place in the bank is free."""


@dataclass(frozen=True)
class TaskDone:
    """A task was carried out: what it made, or what it made of the memory, whose record may be of later by now; or how
    many items it touched.
    """

    made: StoredMemory | Snapshot | int | None = None


@dataclass(frozen=True)
class Unfinished:
    """A part of the job was done; it goes on when others had their turn."""


Outcome: TypeAlias = Stored | Erased | Recalled | Recognized | Found | Deleted | TaskDone | Unfinished

OutcomeFuture: TypeAlias = asyncio.Future[Outcome]


def outcome_of(answer: OutcomeFuture) -> Outcome | ServerError:
    """Return the outcome, or the error, that a settled answer holds."""
    error = answer.exception()
    if error is None:
        return answer.result()
    if not isinstance(error, ServerError):
        return Cancelled("the request was dropped")
    forget_frames(error)
    return error
