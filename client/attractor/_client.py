"""The asynchronous client: one connection to a server, shared by all its memories."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from threading import Lock
from types import TracebackType
from typing import Self, Unpack

import anyio

from attractor._affinity import Affinity, require_whole_process
from attractor._arguments import check_text, parse_address
from attractor._concurrency import BackgroundTasks, ContextTask
from attractor._connection import Connection
from attractor._errors import ClientOpen, Closed, InvalidRequest, Unreachable, WrongBackend
from attractor._filters import Filter
from attractor._memory import AsyncMemory
from attractor._memory_settings import RequestedSettings, encode_settings
from attractor._search import Found, SearchBy, decode_found, encode_search, pack_alone
from attractor._session.channel import Channels, flush
from attractor._session.link import Link
from attractor._session.router import Router
from attractor._settings import Retry, Settings
from attractor._snapshots import FilePath
from attractor._tls import TLS, Credentials, check_tls
from attractor._token import Token, TokenSource, check_token
from attractor._tracing import CallTracer
from attractor._types import MemoryInfo, ModelInfo, Patterns
from attractor._unary import UnaryCalls
from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memory_items_pb2 as items_pb


def connect(  # noqa: PLR0913 - all but the address by keyword
    address: str,
    *,
    timeout_s: float = 60.0,
    connect_timeout_s: float = 5.0,
    retry: Retry | None = None,
    in_flight_patterns: int = 4096,
    direct: bool = True,
    use_proxy: bool = False,
    tls: TLS | bool | None = None,
    token: Token | None = None,
    plaintext_token: bool = False,
) -> "AsyncClient":
    """Return a client of the server at `address` (host:port, or host for port 7171); use it in an `async with`.

    `timeout_s` bounds every call that names no timeout of its own, repeats included. At most `in_flight_patterns` are
    sent and not answered on each stream; later ones wait. `direct` False sends everything to `address`,
    whose shard forwards: for clients that reach no other one, behind a load balancer say. The proxy that
    `grpc_proxy`, `https_proxy` or `http_proxy` names is used only with `use_proxy`: without TLS, memories pass it in
    plain text. `tls` True encrypts and verifies the server by the certificates of this system; `attractor.TLS(…)` names
    others, and the client's own.

    `token` proves to the server who the client is: a str, or a function, plain or async, that returns one. It is asked
    when a stream begins, and again when the server does not take the token any more. A token is sent to another machine
    without TLS only with `plaintext_token`.

    Raises:
        InvalidRequest: it is no address, no TLS, no token, or the token would be sent where others can read it.

    Raises, on entering the block:
        InvalidRequest: a file of `tls` cannot be used.
        HandshakeFailed: client and server do not agree on TLS; so any later call may fail.
        Unreachable: no server answers within `connect_timeout_s`.
        ProtocolMismatch: the server speaks another version.
        Unauthenticated: the server does not know the token, or asks for one.
        WrongBackend: not called from asyncio.
        WrongProcess: gRPC was used before this process was forked.
    """
    if token is not None and not callable(token):
        check_token(token)
    address = parse_address(address)
    settings = Settings(
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        in_flight_patterns=in_flight_patterns,
        direct=direct,
        use_proxy=use_proxy,
        tls=check_tls(tls),
        retry=retry or Retry(),
        token=token,
        plaintext_token=plaintext_token,
    )
    if not settings.may_reach(address):
        raise InvalidRequest.of(
            "token", f"would go to {address} where others can read it on its way; expected TLS, or plaintext_token=True"
        )
    return AsyncClient(address, settings)


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """Client of a server, made by `connect`. Any number of tasks may use it at once; their calls travel together.

    A call that fails with UNAVAILABLE, or loses its connection, is repeated until its timeout. A store is applied once,
    however often it had to be sent, within the life of the shard.

    It is used on the event loop that it was opened on, and may be left in another task there. Open clients after a
    fork: gRPC does not work in the children of a process that used it (`WrongProcess`).

    It can be opened again once it was left; each opening is another client to the server, with numbers of its own.
    A copy is one, too, and is made unopened.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        self._address = address
        self._settings = settings
        self._entering = Lock()
        self._affinity: Affinity | None = None
        """Loop and process of the opening that has not ended."""
        self._session: ContextTask[Connection] | None = None
        self._connection: Connection | None = None
        self._lost: list[ContextTask[Connection] | None] = []
        """Sessions of the process that forked this one; kept, because gRPC must not be called here, not even to free
        them."""

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
        affinity = Affinity()
        with self._entering:  # whichever tasks and threads try
            if self._affinity is not None and not self._affinity.defunct:
                raise ClientOpen("this client is open already: leave it first, or open another one")
            self._abandon_opening()
            self._affinity = affinity
        self._session = ContextTask(self._open(affinity))
        self._connection = await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Close the client, from any task. In a forked child, only the child's own object is closed.

        Raises:
            WrongLoop: it was opened on another event loop, which is not closed.
        """
        if self._affinity is None or self._affinity.defunct:
            self._abandon_opening()
        elif self._session is not None:
            self._affinity.check()
            self._connection = None
            await self._session.__aexit__(kind, error, traceback)
        return None

    @asynccontextmanager
    async def _open(self, affinity: Affinity) -> AsyncIterator[Connection]:
        """Open a connection; close everything down to the last event of gRPC at the end."""
        settings = replace(self._settings, client_id=uuid.uuid4().hex)
        async with AsyncExitStack() as resources:  # which are closed in the reverse order
            resources.callback(self._forget_opening, affinity)
            credentials = None if settings.tls is None else Credentials(settings.tls, self._address)
            if credentials is not None:
                await credentials.refresh()
            channels, others = (
                Channels(affinity, use_proxy=settings.use_proxy, credentials=credentials) for _ in range(2)
            )
            resources.push_async_callback(flush, affinity, self._address)
            resources.push_async_callback(channels.close_all)
            resources.push_async_callback(others.close_all)
            tasks = await resources.enter_async_context(BackgroundTasks())
            tokens = TokenSource(settings.token)
            router = Router(self._address, channels, settings, tokens, tasks)
            resources.callback(router.close)
            tracer = CallTracer()
            unary = UnaryCalls(channels.get(self._address), others, lambda: router.shards, settings, tokens, tracer)
            resources.callback(unary.close)
            await self._wait_session(router.seed)
            connection = Connection(unary, router, settings, affinity, tracer)
            resources.callback(connection.close)
            yield connection

    def _forget_opening(self, affinity: Affinity) -> None:
        if self._affinity is affinity:
            self._affinity = self._session = self._connection = None

    def _abandon_opening(self) -> None:
        """Forget an opening whose event loop or process is gone: nothing of it can be ended from here."""
        if self._affinity is not None and self._affinity.forked:
            self._lost.append(self._session)
        self._affinity = self._session = self._connection = None

    async def create_memory(
        self, name: str, *, model: str, timeout_s: float | None = None, **settings: Unpack[RequestedSettings]
    ) -> AsyncMemory:
        """Create a memory, or return the one that has this name and model.

        `write`, `when_full`, `page_patterns`, `retain`, `metric`, `recall` and `ttl_s` are its settings for life, as
        `MemorySettings` says: by default "rewrite", "grow", the model's capacity, "all", "own" of a model that
        `has_metric`, "posterior" unless the server is set otherwise, and None. An existing memory must have those that
        are given.

        Raises:
            Conflict: there is one of that name from another model, or with other settings.
            ModelNotFound: the server has no such model.
            InvalidRequest: no memory can have that name, or these settings.
        """
        connection = self._require_connection()
        request = pb.CreateRequest(
            name=check_text("name", name), model=check_text("model", model), settings=encode_settings(settings)
        )
        deadline_s = connection.start_deadline(timeout_s)
        info = await connection.unary.create(request, deadline_s)
        return AsyncMemory(connection, name, await connection.get_model(info, deadline_s))

    async def get_memory(self, name: str, *, timeout_s: float | None = None) -> AsyncMemory:
        """Return the memory of that name.

        Raises:
            MemoryNotFound: there is none.
        """
        connection = self._require_connection()
        deadline_s = connection.start_deadline(timeout_s)
        info = await connection.unary.get(check_text("name", name), deadline_s)
        return AsyncMemory(connection, name, await connection.get_model(info, deadline_s))

    def memory(self, name: str) -> AsyncMemory:
        """Return the memory of that name without asking the server; its first call fails if there is none."""
        return AsyncMemory(self._require_connection(), check_text("name", name))

    async def delete_memory(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a memory and all that was stored in it.

        Raises:
            MemoryNotFound: there is none.
        """
        connection = self._require_connection()
        await connection.delete(check_text("name", name), connection.start_deadline(timeout_s))

    async def delete_memories(self, prefix: str, *, timeout_s: float | None = None) -> int:
        """Delete the memories whose names start with `prefix`, with all that was stored in them; return how many.

        After the loss of a connection the number is of those that were left then.

        Raises:
            InvalidRequest: the prefix is empty, which would be that of all memories.
        """
        if not check_text("prefix", prefix):
            raise InvalidRequest.of("prefix", "saw ''; expected at least one character: it is that of all memories")
        connection = self._require_connection()
        return await connection.delete_prefix(prefix, connection.start_deadline(timeout_s))

    async def import_memory(
        self, path: FilePath, *, name: str | None = None, timeout_s: float | None = None
    ) -> AsyncMemory:
        """Make a new memory from a file that `AsyncMemory.export` wrote, here or elsewhere.

        By default it has the name that it had.

        Raises:
            InvalidRequest: the file is damaged, or no exported memory.
            Conflict: there is a memory of that name.
            Refused: the server does not have the memory's model.
            OSError: the file cannot be read.
        """
        connection = self._require_connection()
        deadline_s = connection.start_deadline(timeout_s)
        info = await connection.snapshots.import_(path, check_text("name", name or ""), deadline_s)
        return AsyncMemory(connection, info.name, await connection.get_model(info, deadline_s))

    async def memories(self, prefix: str = "", *, timeout_s: float | None = None) -> AsyncIterator[MemoryInfo]:
        """Yield the memories whose names start with `prefix`, in the order of names.

        They are requested page by page; `timeout_s` bounds each page.
        """
        check_text("prefix", prefix)
        token = ""
        while True:
            connection = self._require_connection()
            page, token = await connection.unary.list_page(prefix, token, connection.start_deadline(timeout_s))
            for memory in page:
                yield memory
            if not token:
                return

    async def search(  # noqa: PLR0913 - all but prefix and cue by keyword
        self,
        prefix: str,
        cue: Patterns | None = None,
        *,
        k: int = 10,
        words: str | None = None,
        filter: Filter | None = None,  # noqa: A002 - as other stores call it
        values: bool = False,
        by: SearchBy = "posterior",
        timeout_s: float | None = None,
    ) -> Found:
        """Search all memories whose names start with `prefix`, and rank what they have together.

        As `AsyncMemory.search` does in one. Each hit names its memory; the memories are taken to be asked for equally
        often. Those that the cue does not fit are left out, and those that this client may not read are as if they were
        not there.

        Raises:
            InvalidRequest: also where the cue fits none of the memories, and for a cue with a text.
            NotKept: the server keeps no patterns.
        """
        connection = self._require_connection()
        deadline_s = connection.start_deadline(timeout_s)
        request = items_pb.SearchPrefixRequest(
            prefix=check_text("prefix", prefix),
            search=encode_search(
                None if cue is None else pack_alone(cue), k=k, words=words, where=filter, values=values, by=by
            ),
        )
        answer = await connection.unary.call(lambda to: to.search.SearchPrefix, request, deadline_s)
        return decode_found(answer.found, values=values)

    async def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """Return the models that the server can make memories from."""
        connection = self._require_connection()
        return await connection.unary.list_models(connection.start_deadline(timeout_s))

    async def model(self, name: str, *, timeout_s: float | None = None) -> ModelInfo:
        """Return the model of that name.

        Raises:
            ModelNotFound: the server has none.
        """
        connection = self._require_connection()
        return await connection.unary.get_model(check_text("name", name), connection.start_deadline(timeout_s))

    def _require_connection(self) -> Connection:
        if self._connection is None:
            raise Closed("the client is not open: use it inside `async with attractor.connect(…) as client`")
        return self._connection

    async def _wait_session(self, seed: Link) -> None:
        with anyio.move_on_after(self._settings.connect_timeout_s):
            await seed.attempted.wait()
        if seed.refusal is not None:
            raise seed.refusal
        if seed.attempted.is_set():
            return
        why = f": {seed.failure}" if seed.failure else ""
        raise Unreachable(
            f"no Attractor server answers at {self._address} within {self._settings.connect_timeout_s:g} s{why}"
        )


def _require_asyncio() -> None:
    """Refuse other async libraries: grpc.aio fails there in obscure ways (grpc/grpc#25050)."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise WrongBackend("attractor runs on asyncio only: run it by asyncio.run or anyio.run(…, backend='asyncio')")
