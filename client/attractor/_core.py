"""What a client and its memories share while it is open."""

from attractor._calls import Ticket, start
from attractor._control import Control
from attractor._patterns import Packed
from attractor._request import Ask, shelf_of
from attractor._router import Router
from attractor._settings import Settings
from attractor._types import MemoryInfo, ModelInfo


class Core:
    """The two ways to the server, the sessions and the unary calls, and the models that are known."""

    def __init__(self, control: Control, router: Router, settings: Settings) -> None:
        self.control = control
        self._router = router
        self._settings = settings
        self._models: dict[str, ModelInfo] = {}

    async def model_of(self, memory: MemoryInfo, timeout_s: float | None) -> ModelInfo:
        """The model a memory was made from."""
        if (model := self._models.get(memory.model_digest)) is None:
            model = self._models[memory.model_digest] = await self.control.model(memory.model, timeout_s)
        return model

    async def delete(self, name: str, timeout_s: float | None) -> None:
        """Forgets a memory, here and on the server."""
        await self.control.delete(name, timeout_s)
        self._router.forget(name)

    def start(self, memory: str, model: ModelInfo, ask: Ask, packed: Packed, timeout_s: float | None) -> Ticket:
        """Puts a call on its way."""
        limit_s = self._settings.timeout_s if timeout_s is None else timeout_s
        return start(self._router, memory, shelf_of(ask, model.digest, packed), packed, limit_s)
