"""The numbers that tell a repeated store or erase from a new one."""

from dataclasses import dataclass


@dataclass(slots=True)
class _Count:
    given: int = 0
    known: int = 0


class Sequences:
    """Counts a client's stores and erases, from 1 for each memory."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def next(self, memory: str) -> int:
        """A number that none of them has had."""
        count = self._counts.setdefault(memory, _Count())
        count.given += 1
        return count.given

    def seen(self, memory: str, number: int) -> None:
        """The memory has seen that number: later ones are higher."""
        if number:
            count = self._counts.setdefault(memory, _Count())
            count.known = max(count.known, number)
            count.given = max(count.given, number)

    def release(self, memory: str) -> None:
        """Forgets the count where the server knows it: opening the memory again tells it.

        A number given and not known yet may reach the memory later; given twice, one of the writes would be lost.
        """
        count = self._counts.get(memory)
        if count is not None and count.known == count.given:
            del self._counts[memory]

    def forget(self, memory: str) -> None:
        """There is no such memory any more."""
        self._counts.pop(memory, None)
