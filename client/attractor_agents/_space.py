"""A memory on the server, made when it is first written, and the encoder that it belongs to."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from attractor import AsyncClient, AsyncMemory, Conflict, KeptItem, MemoryNotFound
from attractor_agents._notes import ENCODER_ID

T = TypeVar("T")


class Space:
    """A memory by its name. An item without a pattern keeps the name of its encoder; forks and snapshots have it."""

    def __init__(self, client: AsyncClient, name: str, encoder: str, *, model: str, timeout_s: float | None) -> None:
        """Ask nothing yet."""
        self.name = name
        self._client = client
        self._encoder = encoder
        self._model = model
        self._timeout_s = timeout_s
        self._memory: AsyncMemory | None = None
        """Set once the encoder is known to be the memory's"""

    async def read(self, use: Callable[[AsyncMemory], Awaitable[T]], default: T) -> T:
        """Return what is found in the memory, or `default` where there is none.

        Raises:
            Conflict: the memory belongs to another encoder.
        """
        try:
            return await use(self._memory or await self._find())
        except MemoryNotFound:
            self._memory = None
            return default

    async def find(self) -> AsyncMemory | None:
        """Return the memory; None where there is none."""
        try:
            return self._memory or await self._find()
        except MemoryNotFound:
            return None

    async def write(self, use: Callable[[AsyncMemory], Awaitable[T]]) -> T:
        """Change the memory, which is made if there is none.

        Raises:
            Conflict: the memory belongs to another encoder, or is of another model.
        """
        if self._memory is not None:
            try:
                return await use(self._memory)
            except MemoryNotFound:  # deleted meanwhile, or expired
                self._memory = None
        self._memory = await self._make()
        return await use(self._memory)

    async def _find(self) -> AsyncMemory:
        memory = self._client.memory(self.name)
        if found := await memory.items.get(ENCODER_ID, timeout_s=self._timeout_s):
            self._check(found)
            self._memory = memory
        return memory

    async def _make(self) -> AsyncMemory:
        memory = await self._client.create_memory(self.name, model=self._model, timeout_s=self._timeout_s)
        found = await memory.items.get(ENCODER_ID, timeout_s=self._timeout_s)
        if not found:  # whoever is first names it, and everybody looks whom it is
            payload = {"encoder": self._encoder}
            await memory.items.put(ENCODER_ID, payload, on_conflict="keep", timeout_s=self._timeout_s)
            found = await memory.items.get(ENCODER_ID, timeout_s=self._timeout_s)
        self._check(found)
        return memory

    def _check(self, found: list[KeptItem]) -> None:
        payload = found[0].payload if found else {}
        seen = payload.get("encoder") if isinstance(payload, dict) else None
        if seen != self._encoder:
            raise Conflict(
                f"encoder: the memory {self.name!r} belongs to {seen!r}, and this is {self._encoder!r}, whose vectors "
                "mean something else; use that one, or another space",
                reason="MEMORY_OF_OTHER_ENCODER",
            )
