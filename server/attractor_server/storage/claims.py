"""Claims of a shard on groups of slots: made in the store, checked in each transaction, trusted for a lease."""

import math
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from attractor_server.errors import OwnerChanged, StoreFailed
from attractor_server.sharding.slots import GROUPS, group_of
from attractor_server.storage.database import Cursor, Store
from attractor_server.storage.process import Incarnation
from attractor_server.storage.tables import groups as group_rows

LEASE_S = 2.0

ENDING_S, ASK_EVERY_S = 2.0, 0.01
"""For processes that were killed to be gone"""


def monotonic_s() -> float:
    """Return the time of a clock that only goes forward, also while the machine sleeps, if it has such a one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


@dataclass(frozen=True)
class Claim:
    """A group that is this shard's, as far as it knows."""

    epoch: int
    serves_from_s: float = -math.inf
    """On the clock: until then another shard may rely on its lease"""
    parting: bool = False
    """What was accepted is being finished, and nothing new is taken"""

    @property
    def waits(self) -> bool:
        """Whether it was taken from somebody who may still be at work."""
        return self.serves_from_s > -math.inf


@dataclass(frozen=True)
class ClaimsView:
    """Claims as the store had them at one time."""

    started_s: float
    lost: Mapping[int, int]
    """Groups that others have taken, with the epochs they were claimed under"""


class Claims:
    """The claims of one shard. Thread-safe; what goes to the store blocks, and one thread at a time does that.

    A claim raises the epoch of its group. It holds until another one does: each transaction makes sure of it in the
    store, and an answer that is not written there relies on the lease, which begins when a look at the store began that
    found all claims to hold.
    """

    def __init__(
        self,
        store: Store,
        owner: Incarnation,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self.lease_s = lease_s
        self._store = store
        self._owner = owner
        self._clock = clock
        self._claims: Mapping[int, Claim] = {}  # replaced, never changed: who reads it has one view
        self._replacing = threading.Lock()
        self._looked_s = -math.inf

    @property
    def held(self) -> frozenset[int]:
        """The groups of this shard, but those that it parts with."""
        return frozenset(group for group, claim in self._claims.items() if not claim.parting)

    @property
    def fresh(self) -> bool:
        """Whether the lease holds: nobody else serves yet what this shard believes to be its own."""
        return self._clock() < self._looked_s + self.lease_s

    @property
    def lease_age_s(self) -> float:
        """Seconds since the look at the store began by which the lease holds; infinite before the first."""
        return self._clock() - self._looked_s

    def serves(self, name: str) -> bool:
        """Return whether this shard may answer for the memory of that name."""
        claim = self._claims.get(group_of(name))
        return claim is not None and not claim.parting and claim.serves_from_s <= self._clock() and self.fresh

    def epoch(self, name: str) -> int:
        """Return the epoch of this shard's claim on the memory of that name.

        Raises:
            OwnerChanged: it is not.
        """
        claim = self._claims.get(group_of(name))
        if claim is None or claim.parting:
            raise OwnerChanged(f"memory {name!r} goes to another shard; try again in a moment")
        return claim.epoch

    def check(self, cursor: Cursor, names: Iterable[str]) -> None:
        """Make sure, within a transaction, that the memories of those names are this shard's.

        Raises:
            OwnerChanged: one of them is not.
        """
        claims, groups = self._claims, sorted(set(map(group_of, names)))
        found = group_rows.load_epochs(cursor, groups, self._store.locking)
        for group in groups:
            claim = claims.get(group)
            if claim is None or claim.epoch != found[group]:
                raise OwnerChanged(f"{self._owner.shard} lost a group of slots to another shard; try again in a moment")

    def free(self, groups: Collection[int]) -> Collection[int]:
        """Return those of the groups that nobody has, or whose owner is known to have ended."""
        with self._store.read() as cursor:
            return {row.group for row in group_rows.load_all(cursor) if row.group in groups and row.is_free}

    def claim(self, groups: Collection[int], *, seize: Collection[int] = ()) -> None:
        """Take those of the groups that nobody has, or whose owner is known to have ended; of `seize` all.

        What is taken from an owner that may be alive, is served when that one's lease must have ended.

        Raises:
            StoreFailed: nothing was taken.
        """
        try:
            taken, waiting = self._take(groups, seize)
        except StoreFailed:
            if not seize:
                raise
            end_owners(self._store, seize)
            taken, waiting = self._take(groups, seize)
        serves_from_s = self._clock() + self.lease_s
        claims = {group: Claim(epoch, serves_from_s if group in waiting else -math.inf) for group, epoch in taken}
        with self._replacing:
            self._claims = {**self._claims, **claims}

    def part(self, groups: Collection[int]) -> None:
        """Take nothing new for these groups; what was accepted can still be committed."""
        with self._replacing:
            parting = {group: replace(self._claims[group], parting=True) for group in self.held.intersection(groups)}
            self._claims = {**self._claims, **parting}

    def release(self, groups: Collection[int]) -> None:
        """Let the next owner have these groups at once."""
        # In the order of groups, as all who lock several rows: no two can wait for each other.
        claims = [(claim.epoch, group) for group, claim in sorted(self._claims.items()) if group in groups]
        with self._store.transaction(reserved=True) as cursor:
            cursor.executemany("UPDATE groups SET owner = '', epoch = epoch + 1 WHERE epoch = ? AND number = ?", claims)
        self._forget({group: epoch for epoch, group in claims})

    def look(self) -> ClaimsView:
        """Read which claims hold. Nothing follows from that before it is trusted."""
        claims, started_s = self._claims, self._clock()
        with self._store.read() as cursor:
            found = group_rows.load_epochs(cursor, range(GROUPS))
        with suppress(StoreFailed):  # which the next look makes up for
            self._settle({group: one for group, one in claims.items() if one.waits and one.serves_from_s <= started_s})
        return ClaimsView(started_s, {group: one.epoch for group, one in claims.items() if found[group] != one.epoch})

    def lost(self, look: ClaimsView) -> Collection[int]:
        """Return the groups that this shard still believed to have, and has not."""
        claims = self._claims
        return {group for group, epoch in look.lost.items() if group in claims and claims[group].epoch == epoch}

    def trust(self, look: ClaimsView) -> None:
        """Renew the lease, once nothing that was lost can be answered for any more."""
        self._forget(look.lost)
        self._looked_s = max(self._looked_s, look.started_s)

    def close(self) -> None:
        """Leave the store; claims stay as they are."""
        self._store.close()

    def _take(self, groups: Collection[int], seize: Collection[int]) -> tuple[list[tuple[int, int]], set[int]]:
        """Take groups; return them with their epochs, and those among them that have to wait."""
        taken, waiting = [], set[int]()
        with self._store.transaction(reserved=True) as cursor:
            for row in group_rows.load_all(cursor, self._store.claiming):
                mine = row.owner is not None and row.owner.shard == self._owner.shard
                if row.group not in groups or not (row.is_free or mine or row.group in seize):
                    continue
                if row.waits or not row.is_free:
                    waiting.add(row.group)
                taken.append((row.group, row.epoch + 1))
            cursor.executemany(
                "UPDATE groups SET owner = ?, epoch = ?, waits = ? WHERE number = ?",
                [(str(self._owner), epoch, int(group in waiting), group) for group, epoch in taken],
            )
        return taken, waiting

    def _forget(self, epochs: Mapping[int, int]) -> None:
        """Forget the claims on these groups, where they have not been claimed anew since."""
        with self._replacing:
            self._claims = {group: one for group, one in self._claims.items() if epochs.get(group) != one.epoch}

    def _settle(self, claims: Mapping[int, Claim]) -> None:
        """Note in the store that the wait for these groups is over: the next owner waits for this shard alone."""
        if not claims:
            return
        with self._store.transaction(reserved=True) as cursor:
            cursor.executemany(
                "UPDATE groups SET waits = 0 WHERE number = ? AND epoch = ?",
                [(group, claim.epoch) for group, claim in claims.items()],
            )
        with self._replacing:
            settled = {
                g: replace(one, serves_from_s=-math.inf) for g, one in claims.items() if self._claims.get(g) == one
            }
            self._claims = {**self._claims, **settled}


def claim_all(store: Store, shard: str) -> Claims:
    """Claim all groups, whoever had them: for a shard that is alone with its store."""
    ownership = Claims(store, Incarnation.here(shard))
    ownership.claim(range(GROUPS), seize=range(GROUPS))
    return ownership


def end_owners(store: Store, groups: Collection[int] = range(GROUPS)) -> None:
    """End the processes that have these groups: a stopped one can hold the lock of the store for ever.

    Returns when they are gone, or cannot be made to go: a killed process lets go of its files before it is over.
    """
    with store.read() as cursor:
        owners = {row.owner for row in group_rows.load_all(cursor) if row.group in groups and row.owner}
    ended = [owner for owner in owners if owner.end()]
    end_s = time.monotonic() + ENDING_S
    while not all(owner.is_over for owner in ended) and time.monotonic() < end_s:
        time.sleep(ASK_EVERY_S)
