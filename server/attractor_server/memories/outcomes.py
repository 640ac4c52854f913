"""Outcomes of jobs."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attractor_server.errors import Cancelled, ServerError, forget_frames
from attractor_server.memories.records import Item, Snapshot, StoredMemory

Floats: TypeAlias = NDArray[np.float32]

Booleans: TypeAlias = NDArray[np.bool_]

Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Stored:
    """A store was applied: the memory's version and number of patterns after it."""

    version: int
    patterns: int


@dataclass(frozen=True)
class Erased:
    """An erase was applied: the memory's version after it, and the patterns left."""

    version: int
    patterns: int


@dataclass(frozen=True)
class Matches:
    """For each of n completed patterns the kept one that is nearest to it."""

    values: Floats
    """(n, d) in user units; zeros where nothing is kept"""
    distances: Floats
    """(n,) Euclidean; infinite where nothing is kept"""
    items: Sequence[Item]
    """(n,)"""


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
    """A task was carried out: what it made, or what it made of the memory, whose record may be of later by now."""

    made: StoredMemory | Snapshot | None = None


@dataclass(frozen=True)
class Unfinished:
    """A part of the job was done; it goes on when others had their turn."""


Outcome: TypeAlias = Stored | Erased | Recalled | Recognized | Deleted | TaskDone | Unfinished

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
