"""Router of requests: chooses the link of each memory, and moves memories to links that lead to their owners."""

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from itertools import count

import anyio
from anyio.abc import TaskGroup

from attractor._arrays import PackedPatterns
from attractor._errors import AttractorError, Closed, HandshakeFailed, TimeoutExceeded, Unauthenticated
from attractor._session.channel import Channels
from attractor._session.deadlines import Deadlines
from attractor._session.link import Link
from attractor._session.outbox import Outbox
from attractor._session.request import BatchKey, Request, count_message_bytes
from attractor._session.sequences import Sequences
from attractor._settings import Limits, Settings
from attractor._token import TokenSource

_HOPS_LIMIT = 2
"""Shards that name each other as a memory's owner are not followed in circles."""


class Router:
    """The seed link, which everything may go over, and direct links to the owners that shards have named."""

    def __init__(
        self, address: str, channels: Channels, settings: Settings, tokens: TokenSource, tasks: TaskGroup
    ) -> None:
        """`tasks` runs the links, the one to `address` first."""
        self._channels = channels
        self._settings = settings
        self._tokens = tokens
        self._tasks = tasks
        self._ids = count(1)
        self._sequences = Sequences()
        self._links: dict[str, Link] = {}
        self._routes: dict[str, Link] = {}
        self._hops: dict[str, int] = {}
        self._avoided: dict[str, float] = {}
        self.shards: Sequence[str] = ()
        """Addresses of shards of the server, as it has told last"""
        self._closed: AttractorError | None = None
        self._deadlines = Deadlines(self._iter_unfinished, self._expire)
        self.seed = self._start_link(address, settings.connect_timeout_s, eager=True)

    @property
    def limits(self) -> Limits:
        """Limits of a frame."""
        return self.seed.limits

    def submit(
        self, memory: str, key: BatchKey, packed: PackedPatterns, deadline_s: float, trace: bytes = b""
    ) -> Request:
        """Send a request. The caller awaits its `future`, or abandons it; it fails at the deadline.

        Raises:
            Closed: the client was closed.
        """
        if self._closed is not None:
            raise self._closed.copy()
        request = Request(
            id=next(self._ids),
            memory=memory,
            batch_key=key,
            packed=packed,
            future=asyncio.get_running_loop().create_future(),
            deadline_s=deadline_s,
            rows=packed.rows,
            message_bytes=count_message_bytes(key.spec.operation, packed),
            trace=trace,
        )
        self._choose_link(memory).outbox.put(request)
        self._deadlines.watch(request)
        return request

    def abandon(self, requests: Sequence[Request]) -> None:
        """Cancel requests that nobody waits for any more."""
        for request in requests:
            if request.future.cancel() or request.future.cancelled():
                self._drop(request)

    def forget(self, memory: str) -> None:
        """Forget a memory that does not exist any more: another one of that name shares nothing with it."""
        self._sequences.forget(memory)
        self._routes.pop(memory, None)
        self._hops.pop(memory, None)
        for link in self._links.values():
            link.outbox.unbind(memory)

    def set_shards(self, shards: Sequence[str]) -> None:
        """Take the addresses of the server's shards."""
        if shards:
            self.shards = shards

    def redirect(self, link: Link, memory: str, route: str) -> bool:
        """Move a memory to a direct link, unless none is wanted, it failed a moment ago or leads in circles."""
        hops = self._hops.get(memory, 0)
        if (
            not self._settings.direct
            or not self._settings.may_reach(route)
            or hops >= _HOPS_LIMIT
            or self._avoided.get(route, -math.inf) > anyio.current_time()
        ):
            return False
        target = self._links.get(route) or self._start_link(route, self._settings.route_timeout_s, eager=False)
        if target is link:
            return False
        self._hops[memory], self._routes[memory] = hops + 1, target
        target.outbox.requeue(link.outbox.remove(memory))
        return True

    def reset_hops(self, memory: str) -> None:
        """Note that a link has reached the memory's owner: if it moves on one day, that is followed again."""
        self._hops.pop(memory, None)

    def fall_back(self, link: Link, *, avoid: bool) -> bool:
        """Move everything from a direct link to the seed, which forwards it; to `avoid` it for a while."""
        if link is self.seed:
            if avoid and not isinstance(
                link.failure, HandshakeFailed | Unauthenticated
            ):  # which the caller is to hear of
                self._lend_requests(link)
            return False
        now_s = anyio.current_time()
        self._avoided = {address: until_s for address, until_s in self._avoided.items() if until_s > now_s}
        if avoid:
            self._avoided[link.channel.address] = now_s + self._settings.route_retry_s
        del self._links[link.channel.address]
        waiting = link.outbox.remove_all()
        for memory in [name for name, target in self._routes.items() if target is link]:
            self._release_memory(link, memory)
        self.seed.outbox.requeue(waiting)
        return True

    def _lend_requests(self, link: Link) -> None:
        """Move waiting requests from a link that fails to another shard: it forwards them, or owns them by now."""
        if (other := self._find_open_link() or self._start_spare_link()) is None:
            return
        self._avoided[link.channel.address] = anyio.current_time() + self._settings.route_retry_s
        waiting = link.outbox.remove_all()
        for request in waiting:
            self._routes[request.memory] = other
        other.outbox.requeue(waiting)

    def _find_open_link(self) -> Link | None:
        return next((link for link in self._links.values() if link.is_open), None)

    def _start_spare_link(self) -> Link | None:
        """Start a link to a shard without one; if all have failed a moment ago, to the one that did so first."""
        spare = [address for address in self.shards if self._settings.direct and address not in self._links]
        spare = [address for address in spare if self._settings.may_reach(address)]
        if not spare:
            return None
        failed_s = {address: self._avoided.get(address, -math.inf) for address in spare}
        fine = [address for address in spare if failed_s[address] <= anyio.current_time()]
        address = random.choice(fine) if fine else min(spare, key=failed_s.__getitem__)  # noqa: S311
        return self._start_link(address, self._settings.route_timeout_s, eager=False)

    def close(self) -> None:
        """Fail all requests under way, and every later one."""
        self._closed = Closed("the client was closed")
        self._deadlines.close()
        for link in self._links.values():
            link.outbox.fail(self._closed)

    def _iter_unfinished(self) -> Iterator[Request]:
        for link in self._links.values():
            yield from link.outbox.iter_unfinished()

    def _expire(self, request: Request) -> None:
        request.fail(_make_timeout_error(request))
        self._drop(request)

    def _drop(self, request: Request) -> None:
        """Cancel a request where it is, once."""
        if not request.abandoned:
            request.abandoned = True
            for link in self._links.values():
                link.outbox.abandon(request)

    def _choose_link(self, memory: str) -> Link:
        link = self._routes.get(memory, self.seed)
        lost = link is self.seed and link.failure is not None and not link.outbox.has_work(memory)
        if lost and (other := self._find_open_link()) is not None:
            link = self._routes[memory] = other
        if route := link.outbox.get_idle_route(memory):
            self.redirect(link, memory, route)  # it is forwarded, but perhaps need not be any longer
            return self._routes.get(memory, self.seed)
        return link

    def _release_memory(self, link: Link, memory: str) -> None:
        """Forget the route of a memory that a link has given up: its next request goes the way of a first one."""
        if self._routes.get(memory, self.seed) is link:
            self._routes.pop(memory, None)
            self._hops.pop(memory, None)
        if not any(other.outbox.has_queue(memory) for other in self._links.values()):
            self._sequences.release(memory)

    def _start_link(self, address: str, timeout_s: float, *, eager: bool) -> Link:
        outbox = Outbox(
            sequences=self._sequences,
            ids=self._ids,
            in_flight_patterns=self._settings.in_flight_patterns,
            release=lambda memory: self._release_memory(link, memory),
        )
        link = Link(self._channels.get(address), outbox, self, self._settings, self._tokens, timeout_s)
        self._links[address] = link

        async def run() -> None:
            await link.run(eager=eager)
            await self._channels.close(link.channel)

        self._tasks.start_soon(run, name=f"attractor link to {address}")
        return link


def _make_timeout_error(request: Request) -> TimeoutExceeded:
    what = f"{request.batch_key.spec.operation.name} in {request.memory!r}"
    last = f"; the last failure: {request.failure}" if request.failure else ""
    error = TimeoutExceeded(f"no answer in time to a {what}{last}")
    error.__cause__ = request.failure
    return error
