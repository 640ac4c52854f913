"""Questions to the store that come at about the same time, asked in one go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

Wish = TypeVar("Wish")
Granted = TypeVar("Granted")


@dataclass(eq=False)
class _Waiting(Generic[Wish, Granted]):
    wish: Wish
    granted: list[Granted] = field(default_factory=list)


class Together(Generic[Wish, Granted]):
    """Whoever comes first asks for all who wait by then: one thread is woken once, not once for each."""

    def __init__(
        self, grant: Callable[[Sequence[Wish]], Sequence[Granted]], threads: anyio.CapacityLimiter, *, limit: int
    ) -> None:
        """`grant` has an answer for each of up to `limit` wishes; it is called in one of the `threads`."""
        self._grant = grant
        self._threads = threads
        self._limit = limit
        self._waiting: dict[_Waiting[Wish, Granted], None] = {}
        self._asking = anyio.Lock()

    async def ask(self, wish: Wish) -> Granted:
        """The answer to this wish. An error reaches only the one who asked for all; the others ask again."""
        mine: _Waiting[Wish, Granted] = _Waiting(wish)
        try:
            while not mine.granted:
                self._waiting[mine] = None
                async with self._asking:
                    while mine in self._waiting:
                        await self._ask_for_some()
        finally:
            self._waiting.pop(mine, None)
        return mine.granted[0]

    async def _ask_for_some(self) -> None:
        some = list(islice(self._waiting, self._limit))
        for one in some:
            del self._waiting[one]
        wishes = [one.wish for one in some]
        answers = await anyio.to_thread.run_sync(self._grant, wishes, limiter=self._threads)
        for one, answer in zip(some, answers, strict=True):
            one.granted.append(answer)
