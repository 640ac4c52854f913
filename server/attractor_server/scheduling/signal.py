"""A signal between tasks of one event loop."""

import asyncio


class Signal:
    """Wakes all who wait when something has changed; whoever comes later waits for the next change."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        """None where nobody waits: to notify costs nothing then"""

    async def wait(self) -> None:
        """Wait for the next change."""
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()

    def notify(self) -> None:
        """Wake all who wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None
