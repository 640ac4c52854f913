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

_PATIENCE = 12
"""Factor of a patient one's wait"""

_LOOKS = 10
"""At who reads nothing, in the time that one waits"""


class Budget:
    """Bytes that calls hold, and who waits for room, in order. Lives on one event loop."""

    def __init__(self, limit_bytes: int, *, wait_s: float = 5.0, unread_s: float = 5.0) -> None:
        """Let a call wait `wait_s` for room before it is refused; sessions, which are read more slowly, much longer.

        A session that has read nothing for `unread_s` is ended where others wait for the memory of its answers.
        """
        self.limit_bytes = limit_bytes
        self.wait_s = wait_s
        self.unread_s = unread_s
        self.used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._accounts: set[Account] = set()

    @contextmanager
    def open_account(self) -> Iterator["Account"]:
        """Open the account of one call, which gives back at the end of the block what it still holds."""
        account = Account(self)
        self._accounts.add(account)
        try:
            yield account
        finally:
            self._accounts.discard(account)
            account.give(account.held_bytes)
            account.closed = True

    async def take(self, size_bytes: int, *, patient: bool) -> None:
        """Wait for room, and take it; wait longer where `patient`.

        Raises:
            MemoryShort: there was none for a while, or never will be.
        """
        if size_bytes > self.limit_bytes:
            raise MemoryShort(
                f"what was sent needs {size_bytes >> 20} MiB once it is decoded, and `{SETTING}` allows "
                f"{self.limit_bytes >> 20} for all calls: send less at once"
            )
        if not self._waiting and self._fits(size_bytes):
            self.used_bytes += size_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._waiting.append(entry)
        try:
            await self._wait(turn, patient=patient)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give(size_bytes)
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, size_bytes: int) -> None:
        """Give bytes back; those who wait get them in order."""
        self.used_bytes -= size_bytes
        self._serve()

    async def _wait(self, turn: "asyncio.Future[None]", *, patient: bool) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self.wait_s * (_PATIENCE if patient else 1)
        while not turn.done():
            if loop.time() >= end_s:
                raise MemoryShort(
                    f"calls hold {self.used_bytes >> 20} MiB of this shard's memory, and `{SETTING}` allows "
                    f"{self.limit_bytes >> 20}: try again in a moment, or start the server with more"
                )
            await asyncio.wait((turn,), timeout=self.wait_s / _LOOKS)
            if not turn.done():
                self._end_unread(loop.time() - self.unread_s)

    def _fits(self, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self.limit_bytes

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size_bytes, turn = self._waiting.popleft()
            self.used_bytes += size_bytes
            turn.set_result(None)

    def _end_unread(self, before_s: float) -> None:
        """End the session that holds the most of those that have not read since then."""
        unread = [one for one in self._accounts if one.unread_since_s is not None and one.unread_since_s < before_s]
        if unread:
            worst = max(unread, key=lambda one: one.held_bytes)
            worst.unread_since_s = None
            worst.end()


@dataclass(eq=False, slots=True)
class Account:
    """Bytes that one call holds of the budget."""

    budget: Budget
    held_bytes: int = 0
    closed: bool = False
    """Whether the call has ended: what ends later than the call is not counted"""
    message_bytes: int = 0
    """Part of these for the message that was read last"""
    unread_since_s: float | None = None
    """Since when, on the loop's clock, the client has not taken what is being written to it"""
    end: Callable[[], object] = field(default=lambda: None)
    """Ends the call, which holds memory that its client does not fetch"""

    async def take(self, size_bytes: int, *, patient: bool = False) -> None:
        """Take so much more, once there is room; a `patient` one waits longer.

        Raises:
            MemoryShort: there was none for a while, or never will be.
        """
        await self.budget.take(size_bytes, patient=patient)
        self.held_bytes += size_bytes

    def add(self, size_bytes: int) -> None:
        """Take so much more, whether there is room or not: it is there already."""
        if not self.closed:
            self.budget.used_bytes += size_bytes
            self.held_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """Give so much back."""
        if not self.closed:
            self.held_bytes -= size_bytes
            self.budget.give(size_bytes)

    async def take_message(self, size_bytes: int, *, patient: bool) -> None:
        """Take what a message needs, which `give_message` gives back.

        Raises:
            MemoryShort: as `take`.
        """
        await self.take(size_bytes, patient=patient)
        self.message_bytes = size_bytes

    def give_message(self) -> None:
        """Give back what the last message needed, less what was moved to its requests."""
        size_bytes, self.message_bytes = self.message_bytes, 0
        self.give(size_bytes)

    def move(self, size_bytes: int) -> int:
        """Move so much of the last message's room to whoever will give it back."""
        self.message_bytes -= size_bytes
        return size_bytes
