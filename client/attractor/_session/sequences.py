"""Sequence numbers, by which a server tells a repeated store or erase from a new one."""

from dataclasses import dataclass


@dataclass(slots=True)
class _Counter:
    issued: int = 0
    acknowledged: int = 0


class Sequences:
    """Counters of a client's stores and erases, from 1 for each memory."""

    def __init__(self) -> None:
        self._counters: dict[str, _Counter] = {}

    def next(self, memory: str) -> int:
        """Issue a number that no write of this memory has had."""
        counter = self._counters.setdefault(memory, _Counter())
        counter.issued += 1
        return counter.issued

    def acknowledge(self, memory: str, number: int) -> None:
        """Note that the server knows that number: later ones are higher."""
        if number:
            counter = self._counters.setdefault(memory, _Counter())
            counter.acknowledged = max(counter.acknowledged, number)
            counter.issued = max(counter.issued, number)

    def release(self, memory: str) -> None:
        """Forget the counter if the server knows all of it: opening the memory again brings it back.

        A number issued and not acknowledged may reach the memory later; issued twice, one of the writes would be lost.
        """
        counter = self._counters.get(memory)
        if counter is not None and counter.acknowledged == counter.issued:
            del self._counters[memory]

    def forget(self, memory: str) -> None:
        """Forget the counter of a memory that was deleted."""
        self._counters.pop(memory, None)
