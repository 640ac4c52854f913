"""The client: one connection to a server, shared by everything that is asked through it."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from threading import Lock
from types import TracebackType
from typing import Self, Unpack

import anyio

from attractor._affinity import Home, require_whole_process
from attractor._arguments import address_of, text
from attractor._concurrency import Background, InOwnTask
from attractor._connection import Core
from attractor._errors import ClientOpen, Closed, Unreachable, WrongBackend
from attractor._memory import Memory
from attractor._memory_settings import Asked, asked
from attractor._session.channel import Channels, flush
from attractor._session.link import Link
from attractor._session.router import Router
from attractor._settings import Retry, Settings
from attractor._snapshots import FilePath
from attractor._types import MemoryInfo, ModelInfo
from attractor._unary import Control
from attractor_proto.v1 import memories_pb2 as pb


def connect(  # noqa: PLR0913 - all but the address by keyword
    address: str,
    *,
    timeout_s: float = 60.0,
    connect_timeout_s: float = 5.0,
    retry: Retry | None = None,
    in_flight_patterns: int = 4096,
    direct: bool = True,
) -> "AsyncClient":
    """A client of the server at `address` (host:port, or host for port 7171), to be used in an `async with`.

    `timeout_s` bounds every call that names no timeout of its own, repeats included. At most `in_flight_patterns` are
    sent and not answered on each stream; what is asked beyond that waits. `direct` False sends everything to `address`,
    whose shard forwards: for clients that reach no other one, behind a load balancer say. `http_proxy` has no effect.

    Raises:
        InvalidRequest: the address can be none.

    Raises, on entering the block:
        Unreachable: no server answers within `connect_timeout_s`.
        ProtocolMismatch: what answers speaks another version.
        WrongBackend: not called from asyncio.
        WrongProcess: gRPC was used before this process was forked.
    """
    return AsyncClient(
        address_of(address),
        Settings(
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            in_flight_patterns=in_flight_patterns,
            direct=direct,
            retry=retry or Retry(),
        ),
    )


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """Made by `connect`. Any number of tasks may use it at once; their calls travel together.

    A call after UNAVAILABLE is repeated until its timeout; so is what a lost connection leaves unanswered. A store is
    applied once, however often it had to be sent, within the life of the shard.

    It is used on the event loop that it was opened on, and may be left in another task there. Open clients after a
    fork: gRPC does not work in the children of a process that used it (`WrongProcess`).

    It can be opened again once it was left; each opening is another client to the server, with numbers of its own.
    A copy is one, too, and is made unopened.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        self._address = address
        self._settings = settings
        self._entering = Lock()
        self._home: Home | None = None
        """Of the opening that has not ended."""
        self._session: InOwnTask[Core] | None = None
        self._opened: Core | None = None
        self._lost: list[InOwnTask[Core] | None] = []
        """Of the process that forked this one; kept, because gRPC is not to be called here, not even to free them."""

    def __repr__(self) -> str:
        return f"<attractor.AsyncClient {self._address!r}>"

    def __reduce__(self) -> tuple[type["AsyncClient"], tuple[str, Settings]]:
        return type(self), (self._address, self._settings)

    async def __aenter__(self) -> Self:
        """Open the client, under an identity that no other opening has.

        Raises:
            ClientOpen: it is open, or about to be.
            WrongProcess: a process that used gRPC has forked this one, in which gRPC does not work any more.
        """
        _require_asyncio()
        require_whole_process()
        home = Home()
        with self._entering:  # whichever tasks and threads try
            if self._home is not None and not self._home.gone:
                raise ClientOpen("this client is open already: leave it first, or open another one")
            self._give_up()
            self._home = home
        self._session = InOwnTask(self._open(home))
        self._opened = await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Close the client, from any task. In a forked child, only the child's own object is closed.

        Raises:
            WrongLoop: it was opened on another event loop, which is not closed.
        """
        if self._home is None or self._home.gone:
            self._give_up()
        elif self._session is not None:
            self._home.check()
            self._opened = None
            await self._session.__aexit__(kind, error, traceback)
        return None

    @asynccontextmanager
    async def _open(self, home: Home) -> AsyncIterator[Core]:
        """One opening, from the first channel to the last event of gRPC."""
        settings = replace(self._settings, client_id=uuid.uuid4().hex)
        async with AsyncExitStack() as resources:
            resources.callback(self._ended, home)
            channels, others = Channels(home), Channels(home)
            resources.push_async_callback(flush, home, self._address)
            resources.push_async_callback(channels.close_all)
            resources.push_async_callback(others.close_all)
            tasks = await resources.enter_async_context(Background())
            router = Router(self._address, channels, settings, tasks)
            resources.callback(router.close)
            control = Control(channels.to(self._address), others, lambda: router.shards, settings)
            resources.callback(control.close)
            await self._reach(router.seed)
            core = Core(control, router, settings, home)
            resources.callback(core.close)
            yield core

    def _ended(self, home: Home) -> None:
        if self._home is home:
            self._home = self._session = self._opened = None

    def _give_up(self) -> None:
        """Forgets an opening whose event loop or process is gone: nothing of it can be ended from here."""
        if self._home is not None and self._home.forked:
            self._lost.append(self._session)
        self._home = self._session = self._opened = None

    async def create_memory(
        self, name: str, *, model: str, timeout_s: float | None = None, **settings: Unpack[Asked]
    ) -> Memory:
        """The memory of that name and model, made now if there is none.

        `write`, `when_full`, `page_patterns`, `retain` and `ttl_s` are its settings for life, as `MemorySettings` says:
        "rewrite", "grow", the model's capacity, "all" and None where nothing is given. A memory that is there has to
        have those that are given.

        Raises:
            Conflict: there is one of that name from another model, or with other settings.
            ModelNotFound: the server has no such model.
            InvalidRequest: no memory can have that name, or these settings.
        """
        core = self._core
        request = pb.CreateRequest(name=text("name", name), model=text("model", model), settings=asked(settings))
        deadline_s = core.deadline_s(timeout_s)
        info = await core.control.create(request, deadline_s)
        return Memory(core, name, await core.model_of(info, deadline_s))

    async def get_memory(self, name: str, *, timeout_s: float | None = None) -> Memory:
        """The memory of that name.

        Raises:
            MemoryNotFound: there is none.
        """
        core = self._core
        deadline_s = core.deadline_s(timeout_s)
        info = await core.control.get(text("name", name), deadline_s)
        return Memory(core, name, await core.model_of(info, deadline_s))

    def memory(self, name: str) -> Memory:
        """The memory of that name, without asking the server now; its first call tells whether there is one."""
        return Memory(self._core, text("name", name))

    async def delete_memory(self, name: str, *, timeout_s: float | None = None) -> None:
        """Forgets a memory and all that was stored in it.

        Raises:
            MemoryNotFound: there is none.
        """
        core = self._core
        await core.delete(text("name", name), core.deadline_s(timeout_s))

    async def import_memory(self, path: FilePath, *, name: str | None = None, timeout_s: float | None = None) -> Memory:
        """A new memory from a file that `Memory.export` wrote, here or elsewhere; by default of the name it had.

        Raises:
            InvalidRequest: the file is damaged, or no exported memory.
            Conflict: there is a memory of that name.
            Refused: the server has not the memory's model.
            OSError: the file cannot be read.
        """
        core = self._core
        deadline_s = core.deadline_s(timeout_s)
        info = await core.copies.import_(path, text("name", name or ""), deadline_s)
        return Memory(core, info.name, await core.model_of(info, deadline_s))

    async def memories(self, prefix: str = "", *, timeout_s: float | None = None) -> AsyncIterator[MemoryInfo]:
        """The memories whose names start with `prefix`, in the order of names.

        Asked page by page; `timeout_s` bounds each page.
        """
        text("prefix", prefix)
        token = ""
        while True:
            core = self._core
            page, token = await core.control.page(prefix, token, core.deadline_s(timeout_s))
            for memory in page:
                yield memory
            if not token:
                return

    async def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """The models that the server can make memories from."""
        core = self._core
        return await core.control.models(core.deadline_s(timeout_s))

    async def model(self, name: str, *, timeout_s: float | None = None) -> ModelInfo:
        """The model of that name.

        Raises:
            ModelNotFound: the server has none.
        """
        core = self._core
        return await core.control.model(text("name", name), core.deadline_s(timeout_s))

    @property
    def _core(self) -> Core:
        if self._opened is None:
            raise Closed("the client is not open: use it inside `async with attractor.connect(…) as client`")
        return self._opened

    async def _reach(self, seed: Link) -> None:
        with anyio.move_on_after(self._settings.connect_timeout_s):
            await seed.tried.wait()
        if seed.refusal is not None:
            raise seed.refusal
        if seed.tried.is_set():
            return
        why = f": {seed.failure}" if seed.failure else ""
        raise Unreachable(
            f"no Attractor server answers at {self._address} within {self._settings.connect_timeout_s:g} s{why}"
        )


def _require_asyncio() -> None:
    """grpc.aio runs on asyncio alone, and fails in obscure ways elsewhere (grpc/grpc#25050)."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise WrongBackend("attractor runs on asyncio only: run it by asyncio.run or anyio.run(…, backend='asyncio')")
