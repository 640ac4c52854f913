"""What a client and its memories share while it is open."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakValueDictionary

from attractor._affinity import Home
from attractor._arguments import check_seconds
from attractor._arrays import Packed
from attractor._errors import Closed, MemoryNotFound
from attractor._session.calls import Ticket, start
from attractor._session.request import Ask, shelf_of
from attractor._session.router import Router
from attractor._settings import Settings
from attractor._snapshots import Copies
from attractor._types import MemoryInfo, ModelInfo
from attractor._unary import Control


class Known:
    """What a client knows of the memory of one name, shared by all that speak of it."""

    def __init__(self) -> None:
        self.model: ModelInfo | None = None
        """None: to be asked for."""


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
        self._known: WeakValueDictionary[str, Known] = WeakValueDictionary()

    def deadline_s(self, timeout_s: float | None) -> float:
        """When a call that begins now has taken too long, on the event loop's clock. Every call begins by asking.

        Raises:
            Closed: the client was closed.
            WrongLoop: it was opened on another event loop.
            WrongProcess: this is a forked child.
            InvalidRequest: the time is no number.
        """
        if self._closed:
            raise Closed("the client was closed: a memory is of use while the client it came from is open")
        self._home.check()
        given = self._settings.timeout_s if timeout_s is None else timeout_s
        check_seconds("timeout_s", given)
        return asyncio.get_running_loop().time() + given

    def close(self) -> None:
        """Every call from now on is refused."""
        self._closed = True

    def known(self, memory: str) -> Known:
        """What is known of the memory of that name, for as long as somebody holds it."""
        return self._known.setdefault(memory, Known())

    async def info(self, memory: str, deadline_s: float) -> MemoryInfo:
        """The memory as it is now; that another one has its name is noticed."""
        with self._noticing(memory):
            info = await self.control.get(memory, deadline_s)
        known = self.known(memory)
        if known.model is not None and known.model.digest != info.model_digest:
            known.model = None
        return info

    async def model_of(self, memory: MemoryInfo, deadline_s: float) -> ModelInfo:
        """The model a memory was made from."""
        if (model := self._models.get(memory.model_digest)) is None:
            model = self._models[memory.model_digest] = await self.control.model(memory.model, deadline_s)
        return model

    async def delete(self, name: str, deadline_s: float) -> None:
        """Forgets a memory, here and on the server."""
        try:
            await self.control.delete(name, deadline_s)
        finally:
            self.forget_model(name)
        self._router.forget(name)

    def forget_model(self, memory: str) -> None:
        """The memory of that name may have another model from now on."""
        if (known := self._known.get(memory)) is not None:
            known.model = None

    def start(self, memory: str, model: ModelInfo, ask: Ask, packed: Packed, deadline_s: float) -> Ticket:
        """Puts a call on its way."""
        gone = partial(self.forget_model, memory)
        return start(self._router, memory, shelf_of(ask, model.digest, packed), packed, deadline_s, gone)

    @contextmanager
    def _noticing(self, memory: str) -> Iterator[None]:
        try:
            yield
        except MemoryNotFound:
            self.forget_model(memory)
            raise
