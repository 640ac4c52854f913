"""The memory that calls may take of a shard, over all of them: counted before anything is decoded."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from attractor_server.errors import MemoryShort

SETTING = "request_memory_mib"
CALL_BYTES = 16 * 1024
"""Counted for a call before it has sent anything"""
PATIENCE_S = 5.0
"""How long a call waits for room before it is refused; sessions are read more slowly instead"""
STALLED_S = 5.0
"""A session that has read nothing for so long is ended where others wait for the memory of its answers"""
_LOOK_S = 0.5


class Budget:
    """Bytes that calls hold, and who waits for room, in order. Lives on one event loop.

    A call that asks for more than the whole budget is served alone.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._accounts: set[Account] = set()

    @contextmanager
    def account(self) -> Iterator["Account"]:
        """The account of one call, which gives back at the end of the block what it still holds."""
        account = Account(self)
        self._accounts.add(account)
        try:
            yield account
        finally:
            self._accounts.discard(account)
            account.give(account.held_bytes)

    async def take(self, size_bytes: int, *, patience_s: float | None) -> None:
        """Waits for room, and takes it.

        Raises:
            MemoryShort: there was none for `patience_s` seconds; without a number, never.
        """
        if not self._waiting and self._fits(size_bytes):
            self.used_bytes += size_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._waiting.append(entry)
        try:
            await self._wait(turn, patience_s)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give(size_bytes)
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, size_bytes: int) -> None:
        """Gives bytes back; those who wait get them in order."""
        self.used_bytes -= size_bytes
        self._serve()

    async def _wait(self, turn: "asyncio.Future[None]", patience_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        end_s = None if patience_s is None else loop.time() + patience_s
        while not turn.done():
            left_s = _LOOK_S if end_s is None else min(_LOOK_S, end_s - loop.time())
            if left_s <= 0:
                raise MemoryShort(
                    f"calls hold {self.used_bytes >> 20} MiB of this shard's memory, and `{SETTING}` allows "
                    f"{self.limit_bytes >> 20}: try again in a moment, or start the server with more"
                )
            await asyncio.wait((turn,), timeout=left_s)
            if not turn.done():
                self._end_stalled(loop.time() - STALLED_S)

    def _fits(self, size_bytes: int) -> bool:
        return not self.used_bytes or self.used_bytes + size_bytes <= self.limit_bytes

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size_bytes, turn = self._waiting.popleft()
            self.used_bytes += size_bytes
            turn.set_result(None)

    def _end_stalled(self, before_s: float) -> None:
        """Ends the session that holds the most of those that have not read since then."""
        stalled = [one for one in self._accounts if one.stalled_s is not None and one.stalled_s < before_s]
        if stalled:
            worst = max(stalled, key=lambda one: one.held_bytes)
            worst.stalled_s = None
            worst.end()


@dataclass(eq=False, slots=True)
class Account:
    """What one call holds of the budget."""

    budget: Budget
    held_bytes: int = 0
    message_bytes: int = 0
    """Of these, for the message that was read last"""
    stalled_s: float | None = None
    """Since when, on the loop's clock, the client has not taken what is being written to it"""
    end: Callable[[], object] = field(default=lambda: None)
    """Ends the call, which holds memory that its client does not fetch"""

    async def take(self, size_bytes: int, *, patience_s: float | None = PATIENCE_S) -> None:
        """Takes so much more, once there is room.

        Raises:
            MemoryShort: there was none for `patience_s` seconds; without a number, never.
        """
        await self.budget.take(size_bytes, patience_s=patience_s)
        self.held_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """Gives so much back."""
        self.held_bytes -= size_bytes
        self.budget.give(size_bytes)

    async def take_message(self, size_bytes: int, *, patience_s: float | None = PATIENCE_S) -> None:
        """Takes what a message needs, which `give_message` gives back.

        Raises:
            MemoryShort: as `take`.
        """
        await self.take(size_bytes, patience_s=patience_s)
        self.message_bytes = size_bytes

    def give_message(self) -> None:
        """Gives back what the last message needed, less what was moved to its requests."""
        size_bytes, self.message_bytes = self.message_bytes, 0
        self.give(size_bytes)

    def move(self, share: float) -> int:
        """Bytes of that share of the last message, which whoever gets them gives back."""
        size_bytes = min(self.message_bytes, int(self.message_bytes * share))
        self.message_bytes -= size_bytes
        return size_bytes
