"""What a client and its memories share while it is open."""

import asyncio

from attractor._calls import Ticket, start
from attractor._control import Control
from attractor._copies import Copies
from attractor._errors import Closed
from attractor._home import Home
from attractor._patterns import Packed
from attractor._request import Ask, shelf_of
from attractor._router import Router
from attractor._settings import Settings
from attractor._types import MemoryInfo, ModelInfo


class Core:
    """The two ways to the server, the sessions and the unary calls, and the models that are known."""

    def __init__(self, control: Control, router: Router, settings: Settings, home: Home) -> None:
        """Of a client that was opened at `home`."""
        self.control = control
        self.copies = Copies(control)
        self._router = router
        self._settings = settings
        self._home = home
        self._closed = False
        self._models: dict[str, ModelInfo] = {}

    def deadline_s(self, timeout_s: float | None) -> float:
        """When a call that begins now has taken too long, on the event loop's clock. Every call begins by asking.

        Raises:
            Closed: the client was closed.
            WrongLoop: it was opened on another event loop.
            WrongProcess: this is a forked child.
        """
        if self._closed:
            raise Closed("the client was closed: a memory is of use while the client it came from is open")
        self._home.check()
        return asyncio.get_running_loop().time() + (self._settings.timeout_s if timeout_s is None else timeout_s)

    def close(self) -> None:
        """Every call from now on is refused."""
        self._closed = True

    async def model_of(self, memory: MemoryInfo, deadline_s: float) -> ModelInfo:
        """The model a memory was made from."""
        if (model := self._models.get(memory.model_digest)) is None:
            model = self._models[memory.model_digest] = await self.control.model(memory.model, deadline_s)
        return model

    async def delete(self, name: str, deadline_s: float) -> None:
        """Forgets a memory, here and on the server."""
        await self.control.delete(name, deadline_s)
        self._router.forget(name)

    def start(self, memory: str, model: ModelInfo, ask: Ask, packed: Packed, deadline_s: float) -> Ticket:
        """Puts a call on its way."""
        return start(self._router, memory, shelf_of(ask, model.digest, packed), packed, deadline_s)
