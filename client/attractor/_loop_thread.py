"""Event loop of a synchronous client, in a thread of its own."""

import asyncio
import atexit
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context
from enum import Enum, auto
from functools import partial
from threading import Thread
from typing import TypeVar, TypeVarTuple

import anyio
from anyio.from_thread import BlockingPortal

from attractor._errors import AttractorError, Closed, WrongProcess

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class End(Enum):
    """Sentinel after the last item."""

    END = auto()


class _EventLoop(asyncio.SelectorEventLoop):
    """An event loop that drops callbacks when it is closed.

    All loops of a process share gRPC's queue of events; a late one for a closed loop would raise in another.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


class LoopThread:
    """Thread with an event loop, while the client is open.

    A client that nobody holds any more is closed; so is one that is open where the interpreter ends, which would wait
    for gRPC without end.
    """

    def __init__(self) -> None:
        self._opened: _OpenClient | None = None
        self._unused: weakref.finalize[[], LoopThread] | None = None

    def open(self, client: AbstractAsyncContextManager[object]) -> None:
        """Start the thread and enter the client there."""
        opened = _OpenClient(client)
        self._opened = opened
        self._unused = weakref.finalize(self, opened.end_in_background)
        self._unused.atexit = False  # `end` is what runs then

    def close(self) -> None:
        """Leave the client and end the thread. In a forked child, only mark it as closed."""
        opened, self._opened = self._opened, None
        if self._unused is not None:
            self._unused.detach()
        if opened is not None:
            opened.end()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an asynchronous function to its end.

        Raises:
            Closed: the client is not open.
            WrongProcess: this is a forked child, in which the thread is not.
        """
        if (opened := self._opened) is None:
            raise Closed("the client is not open: use it inside `with attractor.Client(…) as client`")
        opened.check()
        try:
            return opened.portal.call(function)
        except (RuntimeError, CancelledError) as error:
            if self._opened is opened or isinstance(error, AttractorError):
                raise
            raise Closed("the client was closed during the call") from error  # by another thread

    def iterate(self, start: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Yield the items of an async iterator; `start`, which makes it, is called at once."""
        return self._iter_items(self.call(partial(_call_on_loop, start)))

    def _iter_items(self, items: AsyncIterator[T]) -> Iterator[T]:
        while (item := self.call(partial(_get_next, items))) is not End.END:
            yield item


class _OpenClient:
    """An open client, closed once, in the process that it was opened in.

    Made of plain objects: a generator would try to end what it holds wherever it is freed.
    """

    def __init__(self, client: AbstractAsyncContextManager[object]) -> None:
        """Enter the client."""
        self._client = client
        self._process = os.getpid()
        self._started: Future[BlockingPortal] = Future()
        self._thread = Thread(target=self._run, name="attractor client", daemon=True)
        self._thread.start()
        self.portal = self._started.result()
        try:
            self.portal.call(client.__aenter__)
        except BaseException:
            self._stop()
            raise
        atexit.register(self.end)

    def check(self) -> None:
        """Refuse a forked child.

        Raises:
            WrongProcess: this is one.
        """
        if self._forked:
            raise WrongProcess(
                f"opened in process {self._process}, used in its forked child {os.getpid()}: open a client here"
            )

    def end(self) -> None:
        """Leave the client, and wait until all is closed."""
        if self._forked:
            return  # and stays registered: nothing of it is to be freed here
        atexit.unregister(self.end)
        try:
            self.portal.call(self._client.__aexit__, None, None, None)
        except (RuntimeError, CancelledError):  # another thread was first
            pass
        finally:
            self._stop()

    def end_in_background(self) -> None:
        """Leave the client without waiting: from wherever the garbage collector runs."""
        if not self._forked:
            Thread(target=self.end, name="attractor client's end", daemon=True).start()

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._process

    def _run(self) -> None:
        anyio.run(self._serve, backend="asyncio", backend_options={"loop_factory": _EventLoop})

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._started.set_result(portal)
            await portal.sleep_until_stopped()

    def _stop(self) -> None:
        with suppress(RuntimeError):
            self.portal.call(self.portal.stop, True)
        self._thread.join()


async def _call_on_loop(start: Callable[[], T]) -> T:  # an iterator belongs to the loop that made it
    return start()


async def _get_next(items: AsyncIterator[T]) -> T | End:
    return await anext(items, End.END)
