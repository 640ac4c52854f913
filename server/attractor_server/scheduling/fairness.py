"""Fairness across namespaces: whoever was served least goes first, and nobody fills the room of all.

Accounts as in fair serving of language models ("virtual token counters", OSDI 2024), counted in patterns. Deficit
round robin comes to the same where every queue has work for the next turn; it does not say what a namespace is owed
that had to let a batch of another program pass. Here that is plain: it was served less, so it is next.
"""

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

CREDIT_LIMIT = 64
"""Patterns that a namespace can be behind the others when it asks again: who asks for less than its share, a few at a
time, goes first with these"""

LEAD_LIMIT = 4096
"""Patterns that a namespace can be ahead of the one served least: what it got while nobody else had work for the engine
is not held against it for longer than that."""


def has_room(weight: int, *, mine: int, free: int) -> bool:
    """Return whether a job of that weight may wait, beside `mine` of its namespace and with `free` left of the bound.

    A namespace may hold as much as is left free. So one alone fills half of the room, n of them fill n/(n + 1) of it,
    and whoever comes next finds as much as each of those has. The first job of a namespace may be larger than that.
    """
    return mine + weight <= free if mine else free > 0


@dataclass(eq=False, slots=True)
class Account:
    """Service that one namespace has had, in patterns."""

    number: int
    """Order among those served alike: the lower number goes first"""
    served: int

    def charge(self, weight: int, *, least: int) -> None:
        """Count what was served; `least` is the account of whoever was served least."""
        self.served = min(self.served + weight, least + LEAD_LIMIT)


class Crowds:
    """Counts of the namespaces that wait by way of each session, and of the sessions of each address they come by.

    Those of one share its part: a name costs nothing, and a session little.
    """

    def __init__(self) -> None:
        self._sessions: Counter[tuple[str, int]] = Counter()
        self._addresses: Counter[str] = Counter()

    def enter(self, origin: tuple[str, int] | None) -> int:
        """Count one more namespace of that session, and return how many others there are."""
        if origin is None:
            return 0
        self._sessions[origin] += 1
        if self._sessions[origin] == 1:
            self._addresses[origin[0]] += 1
        return self._sessions[origin] - 1

    def leave(self, origin: tuple[str, int] | None) -> None:
        """Count one less."""
        if origin is None:
            return
        self._sessions[origin] -= 1
        if not self._sessions[origin]:
            del self._sessions[origin]
            self._addresses[origin[0]] -= 1
            if not self._addresses[origin[0]]:
                del self._addresses[origin[0]]

    def count_sharers(self, origin: tuple[str, int] | None) -> int:
        """Return how many share the part of that namespace's address."""
        return 1 if origin is None else self._sessions[origin] * self._addresses[origin[0]]


class Holder(Protocol):
    """Holder of an account."""

    @property
    def account(self) -> Account: ...  # noqa: D102


HolderType = TypeVar("HolderType", bound=Holder)


class Ranking(Generic[HolderType]):
    """Holders of accounts, the one that was served least first. Accounts may only grow while they are ranked."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, HolderType]] = []

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, holder: HolderType) -> None:
        """Take one more, which must not be ranked here."""
        heapq.heappush(self._heap, _entry(holder))

    def first(self) -> HolderType:
        """Return the holder that was served least; there must be one."""
        while (holder := self._heap[0][2]).account.served != self._heap[0][0]:
            heapq.heapreplace(self._heap, _entry(holder))
        return holder

    def drop_first(self) -> None:
        """Take out the holder that `first` gave last."""
        heapq.heappop(self._heap)


def _entry(holder: HolderType) -> tuple[int, int, HolderType]:
    return (holder.account.served, holder.account.number, holder)
