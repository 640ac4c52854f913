"""Slots of a shard: it claims groups of them, releases them, and forgets the memories of those it lost."""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import NoReturn

import anyio.to_thread

from attractor_server.errors import StoreDamaged, StoreFailed
from attractor_server.memories.memory import MemoryRecord
from attractor_server.recorder import SILENT, Recorder
from attractor_server.scheduling.batcher import Batcher
from attractor_server.scheduling.jobs import Job
from attractor_server.scheduling.signal import Signal
from attractor_server.shard.directory import MemoryDirectory
from attractor_server.sharding.slots import group_of
from attractor_server.storage.claims import Claims

logger = logging.getLogger(__name__)

ASK_EVERY_S = 0.01

HANDOVER_S = 0.5

RENEWALS = 4
"""Renewals in the time of a lease"""


class SlotOwnership:
    """Follows the topology that the shard is given. Lives on one event loop; `run` must be running there."""

    def __init__(
        self, claims: Claims, memories: MemoryDirectory, batcher: Batcher, *, recorder: Recorder = SILENT
    ) -> None:
        self._claims = claims
        self._recorder = recorder
        self._memories = memories
        self._batcher = batcher
        self._following = anyio.Lock()
        self._looking = anyio.Lock()
        self.damage: StoreDamaged | None = None
        """Why the lease can not be renewed"""
        self.changes = Signal()
        """The shard has done what it was told"""
        self._going: Sequence[Job] = ()
        """Jobs that evict memories whose groups this shard releases"""

    @property
    def held(self) -> frozenset[int]:
        """Groups that are this shard's."""
        return self._claims.held

    @property
    def lease_age_s(self) -> float:
        """Seconds since the look at the store began by which the lease holds."""
        return self._claims.lease_age_s

    def serves(self, name: str) -> bool:
        """Return whether this shard may answer for the memory of that name now."""
        return self._claims.serves(name)

    async def follow(self, wanted: Collection[int], *, seize: Collection[int] = ()) -> None:
        """Release all groups but the wanted ones, and claim those of them that are free; of `seize` also those that are
        not.

        What was accepted for a group is finished before the next owner can claim it.

        Raises:
            StoreFailed: it was not done, or not all of it.
        """
        async with self._following:
            if leaving := self.held.difference(wanted):
                logger.info("parting with %d groups of slots", len(leaving))
                self._claims.part(leaving)
                gone = self._memories.release(leaving)
                busy = self._batcher.find_busy(gone)
                idle = set(gone) - busy
                for memory in idle:
                    memory.deleted = True  # what still waits to be taken is not computed
                self._going = self._evict(busy)
                await _wait_for(self._going)
                try:
                    await anyio.to_thread.run_sync(self._claims.release, leaving)
                    self._recorder.record_moves(len(leaving))
                finally:
                    self._evict(idle)  # only now: nobody waits for it
                self._going = ()
            if missing := set(wanted) - self.held:
                await self._claim(missing, seize)
            await self.renew()
        self.changes.notify()

    async def run(self) -> NoReturn:
        """Renew the lease again and again, until cancelled."""
        while True:
            await anyio.sleep(self._claims.lease_s / RENEWALS)
            try:
                await self.renew()
            except (StoreFailed, StoreDamaged) as error:
                logger.warning("the lease is not renewed: %s", error)

    async def renew(self) -> None:
        """Look whether all claims hold, and forget the memories of those that do not before anything else is answered.

        Raises:
            StoreFailed: the store did not say.
            StoreDamaged: it cannot.
        """
        async with self._looking:
            try:
                look = await anyio.to_thread.run_sync(self._claims.look)
            except StoreDamaged as error:
                self.damage = error
                raise
            self.damage = None
            if lost := self._claims.lost(look):
                logger.warning("%d groups of slots were taken by another shard", len(lost))
                going = [job for job in self._going if group_of(job.memory.name) in lost]
                for job in [*self._evict(self._memories.release(lost)), *going]:
                    job.memory.deleted = True  # nothing that waits is computed
            self._claims.trust(look)

    async def release(self) -> None:
        """Release all groups at once; at the shard's end, when nothing is computed any more."""
        await anyio.to_thread.run_sync(self._claims.release, self.held)

    async def _claim(self, groups: Collection[int], seize: Collection[int]) -> None:
        """Claim the free groups, and those that become free in a moment: their owner was told to release them, too."""
        claims, end_s = self._claims, anyio.current_time() + HANDOVER_S
        await anyio.to_thread.run_sync(lambda: claims.claim(groups, seize=seize))
        while (missing := set(groups) - self.held) and anyio.current_time() < end_s:
            if free := await anyio.to_thread.run_sync(claims.free, missing):
                await anyio.to_thread.run_sync(claims.claim, free)
            else:
                await anyio.sleep(ASK_EVERY_S)
        self._recorder.record_moves(len(groups) - len(missing))
        logger.info("claimed %d of %d groups of slots", len(groups) - len(missing), len(groups))

    def _evict(self, memories: Iterable[MemoryRecord]) -> Sequence[Job]:
        """Take these memories' pages out of the bank, each when what waits for it now is done."""
        jobs = [Job.evict(memory) for memory in memories]
        for job in jobs:
            self._batcher.add(job)
        return jobs


async def _wait_for(jobs: Sequence[Job]) -> None:
    if jobs:
        await asyncio.wait([job.future for job in jobs])
