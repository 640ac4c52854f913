"""Reads under a lease: what another shard may have changed meanwhile is not told."""

from collections.abc import Sequence
from typing import Protocol

from attractor_server.engine.batcher import Computer
from attractor_server.engine.work import Job, Outcome
from attractor_server.errors import OwnerChanged, ServerError


class Lease(Protocol):
    """For how long nobody else can have changed what this shard believes to be its own."""

    @property
    def fresh(self) -> bool:
        """Whether it holds."""


class Leased:
    """Computes as another computer does, and answers jobs that read only while a lease holds.

    It is looked at before a batch, and again after it, since the process may have been stopped between. Jobs that write
    need no lease: the store takes nothing from who is not the owner.
    """

    def __init__(self, computer: Computer, *, lease: Lease) -> None:
        self._computer = computer
        self._lease = lease

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """An outcome or an error for each job, in their order."""
        if jobs[0].operation.writes:
            return self._computer.run(jobs)
        outcomes = self._computer.run(jobs) if self._lease.fresh else []
        if outcomes and self._lease.fresh:
            return outcomes
        error = OwnerChanged("this shard no longer knows whether the memory is its own; try again in a moment")
        return [error] * len(jobs)
