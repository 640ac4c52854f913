"""Connection of an open client: its sessions, its unary calls, and the models it knows."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakValueDictionary

from attractor._affinity import Affinity
from attractor._arguments import check_seconds
from attractor._arrays import PackedPatterns
from attractor._errors import Closed, MemoryNotFound
from attractor._session.calls import PendingCall, split_patterns
from attractor._session.request import RequestSpec, Result_co, make_batch_key
from attractor._session.router import Router
from attractor._settings import Settings
from attractor._snapshots import SnapshotCalls
from attractor._tracing import CallTracer
from attractor._types import MemoryInfo, ModelInfo
from attractor._unary import UnaryCalls


class CachedModel:
    """The model of a memory, shared by all objects of that name."""

    def __init__(self) -> None:
        self.model: ModelInfo | None = None
        """None: not known."""


class Connection:
    """Sessions and unary calls of a client, shared with its memories while it is open."""

    def __init__(
        self, unary: UnaryCalls, router: Router, settings: Settings, affinity: Affinity, tracer: CallTracer
    ) -> None:
        """`affinity` is that of the opened client."""
        self._tracer = tracer
        self.unary = unary
        self.snapshots = SnapshotCalls(unary)
        self._router = router
        self._settings = settings
        self._affinity = affinity
        self._closed = False
        self._models: dict[str, ModelInfo] = {}
        self._cached: WeakValueDictionary[str, CachedModel] = WeakValueDictionary()

    def start_deadline(self, timeout_s: float | None) -> float:
        """Return the deadline of a call that begins now, on the event loop's clock. Every call begins with this.

        Raises:
            Closed: the client was closed.
            WrongLoop: it was opened on another event loop.
            WrongProcess: this is a forked child.
            InvalidRequest: the time is no number.
        """
        if self._closed:
            raise Closed("the client was closed: a memory is of use while the client it came from is open")
        self._affinity.check()
        given = self._settings.timeout_s if timeout_s is None else timeout_s
        check_seconds("timeout_s", given)
        return asyncio.get_running_loop().time() + given

    def close(self) -> None:
        """Refuse every later call."""
        self._closed = True

    def get_cached_model(self, memory: str) -> CachedModel:
        """Return the cached model of a memory, kept for as long as somebody holds it."""
        return self._cached.setdefault(memory, CachedModel())

    async def get_info(self, memory: str, deadline_s: float) -> MemoryInfo:
        """Return the memory as it is now; forget its cached model if it has another one."""
        with self._forgetting_model(memory):
            info = await self.unary.get(memory, deadline_s)
        cached = self.get_cached_model(memory)
        if cached.model is not None and cached.model.digest != info.model_digest:
            cached.model = None
        return info

    async def get_model(self, memory: MemoryInfo, deadline_s: float) -> ModelInfo:
        """Return the model of a memory."""
        if (model := self._models.get(memory.model_digest)) is None:
            model = self._models[memory.model_digest] = await self.unary.get_model(memory.model, deadline_s)
        return model

    async def delete(self, name: str, deadline_s: float) -> None:
        """Delete a memory, here and on the server."""
        try:
            await self.unary.delete(name, deadline_s)
        finally:
            self.forget_model(name)
        self._router.forget(name)

    async def delete_prefix(self, prefix: str, deadline_s: float) -> int:
        """Delete memories, here and on the server; return how many."""
        try:
            return await self.unary.delete_prefix(prefix, deadline_s)
        finally:
            for name in [name for name in self._cached if name.startswith(prefix)]:
                self.forget_model(name)
                self._router.forget(name)

    def forget_model(self, memory: str) -> None:
        """Forget the cached model of a memory, which may have another one from now on."""
        if (cached := self._cached.get(memory)) is not None:
            cached.model = None

    def start(
        self, memory: str, spec: RequestSpec[Result_co], packed: PackedPatterns, deadline_s: float
    ) -> PendingCall[Result_co]:
        """Send the requests of a call, without waiting for anything.

        Raises:
            InvalidRequest: a write of more patterns than a frame takes.
            Closed: the client was closed.
        """
        key = make_batch_key(spec, packed)
        pieces = split_patterns(spec.operation, packed, self._router.limits)
        span = self._tracer.start(spec.operation.name)
        requests = [self._router.submit(memory, key, piece, deadline_s, span.packed) for piece in pieces]
        forget = partial(self.forget_model, memory)
        return PendingCall(self._router, requests, spec.operation, packed.model, packed.single, forget, span)

    @contextmanager
    def _forgetting_model(self, memory: str) -> Iterator[None]:
        try:
            yield
        except MemoryNotFound:
            self.forget_model(memory)
            raise
