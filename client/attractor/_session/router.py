"""Which link takes a memory's requests, and what becomes of them."""

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from itertools import count

import anyio
from anyio.abc import TaskGroup

from attractor._arrays import Packed
from attractor._errors import AttractorError, Closed, TimeoutExceeded
from attractor._session.channel import Channels
from attractor._session.deadlines import Deadlines
from attractor._session.link import Link
from attractor._session.outbox import Outbox
from attractor._session.request import Request, Shelf, weight_bytes
from attractor._session.sequences import Sequences
from attractor._settings import Limits, Settings

_HOPS_LIMIT = 2
"""Shards that name each other as a memory's owner are not followed in circles."""


class Router:
    """The seed link, which everything may go over, and direct links to the owners that shards have named."""

    def __init__(self, address: str, channels: Channels, settings: Settings, tasks: TaskGroup) -> None:
        """`tasks` runs the links, the one to `address` first."""
        self._channels = channels
        self._settings = settings
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
        self._deadlines = Deadlines(self._unfinished, self._expire)
        self.seed = self._start(address, settings.connect_timeout_s, eager=True)

    @property
    def limits(self) -> Limits:
        """What a shard takes in one frame."""
        return self.seed.limits

    def submit(self, memory: str, shelf: Shelf, packed: Packed, deadline_s: float) -> Request:
        """Puts a request on its way. The caller awaits its `future`, or abandons it; it fails when its time is over.

        Raises:
            Closed: the client was closed.
        """
        if self._closed is not None:
            raise self._closed.again()
        request = Request(
            id=next(self._ids),
            memory=memory,
            shelf=shelf,
            packed=packed,
            future=asyncio.get_running_loop().create_future(),
            deadline_s=deadline_s,
            rows=packed.rows,
            weight_bytes=weight_bytes(shelf.ask.operation, packed),
        )
        self._link(memory).outbox.put(request)
        self._deadlines.watch(request)
        return request

    def abandon(self, requests: Sequence[Request]) -> None:
        """Nobody waits for these any more."""
        for request in requests:
            if request.future.cancel() or request.future.cancelled():
                self._drop(request)

    def forget(self, memory: str) -> None:
        """A memory is no more: what was known of that name does not hold for another one."""
        self._sequences.forget(memory)
        self._routes.pop(memory, None)
        self._hops.pop(memory, None)
        for link in self._links.values():
            link.outbox.unbind(memory)

    def met(self, shards: Sequence[str]) -> None:
        """These are shards of the server."""
        if shards:
            self.shards = shards

    def redirect(self, link: Link, memory: str, route: str) -> bool:
        """Moves a memory to a direct link, unless none is wanted, it failed a moment ago or leads in circles."""
        hops = self._hops.get(memory, 0)
        if (
            not self._settings.direct
            or hops >= _HOPS_LIMIT
            or self._avoided.get(route, -math.inf) > anyio.current_time()
        ):
            return False
        target = self._links.get(route) or self._start(route, self._settings.route_timeout_s, eager=False)
        if target is link:
            return False
        self._hops[memory], self._routes[memory] = hops + 1, target
        target.outbox.put_back(link.outbox.remove(memory))
        return True

    def arrived(self, memory: str) -> None:
        """A link has reached the memory's owner: if it moves on one day, that is followed again."""
        self._hops.pop(memory, None)

    def fall_back(self, link: Link, *, avoid: bool) -> bool:
        """Moves everything from a direct link to the seed, which forwards it; to `avoid` it for a while."""
        if link is self.seed:
            if avoid:
                self._lend(link)
            return False
        now_s = anyio.current_time()
        self._avoided = {address: until_s for address, until_s in self._avoided.items() if until_s > now_s}
        if avoid:
            self._avoided[link.channel.address] = now_s + self._settings.route_retry_s
        del self._links[link.channel.address]
        waiting = link.outbox.remove_all()
        for memory in [name for name, target in self._routes.items() if target is link]:
            self._left(link, memory)
        self.seed.outbox.put_back(waiting)
        return True

    def _lend(self, link: Link) -> None:
        """Another shard takes what waits on a link that fails: it forwards it, or owns it by now."""
        if (other := self._standing() or self._told()) is None:
            return
        self._avoided[link.channel.address] = anyio.current_time() + self._settings.route_retry_s
        waiting = link.outbox.remove_all()
        for request in waiting:
            self._routes[request.memory] = other
        other.outbox.put_back(waiting)

    def _standing(self) -> Link | None:
        """A link with a session."""
        return next((link for link in self._links.values() if link.stands), None)

    def _told(self) -> Link | None:
        """A new link to a shard that was told of; if all have failed a moment ago, to the one that did so first."""
        told = [address for address in self.shards if self._settings.direct and address not in self._links]
        if not told:
            return None
        failed_s = {address: self._avoided.get(address, -math.inf) for address in told}
        fine = [address for address in told if failed_s[address] <= anyio.current_time()]
        address = random.choice(fine) if fine else min(told, key=failed_s.__getitem__)  # noqa: S311
        return self._start(address, self._settings.route_timeout_s, eager=False)

    def close(self) -> None:
        """Fails all that is under way, and everything asked from now on."""
        self._closed = Closed("the client was closed")
        self._deadlines.close()
        for link in self._links.values():
            link.outbox.fail(self._closed)

    def _unfinished(self) -> Iterator[Request]:
        for link in self._links.values():
            yield from link.outbox.unfinished()

    def _expire(self, request: Request) -> None:
        request.fail(_too_late(request))
        self._drop(request)

    def _drop(self, request: Request) -> None:
        """Tells the server, or takes it out of the line, once."""
        if not request.abandoned:
            request.abandoned = True
            for link in self._links.values():
                link.outbox.abandon(request)

    def _link(self, memory: str) -> Link:
        link = self._routes.get(memory, self.seed)
        lost = link is self.seed and link.failure is not None and not link.outbox.holds(memory)
        if lost and (other := self._standing()) is not None:
            link = self._routes[memory] = other
        if route := link.outbox.idle_route(memory):
            self.redirect(link, memory, route)  # it is forwarded, but perhaps need not be any longer
            return self._routes.get(memory, self.seed)
        return link

    def _left(self, link: Link, memory: str) -> None:
        """A link has given up a memory that it had: the next request of it goes the way of a first one."""
        if self._routes.get(memory, self.seed) is link:
            self._routes.pop(memory, None)
            self._hops.pop(memory, None)
        if not any(other.outbox.knows(memory) for other in self._links.values()):
            self._sequences.release(memory)

    def _start(self, address: str, timeout_s: float, *, eager: bool) -> Link:
        outbox = Outbox(
            sequences=self._sequences,
            ids=self._ids,
            in_flight_patterns=self._settings.in_flight_patterns,
            left=lambda memory: self._left(link, memory),
        )
        link = Link(self._channels.to(address), outbox, self, self._settings, timeout_s)
        self._links[address] = link

        async def run() -> None:
            await link.run(eager=eager)
            await self._channels.close(link.channel)

        self._tasks.start_soon(run, name=f"attractor link to {address}")
        return link


def _too_late(request: Request) -> TimeoutExceeded:
    what = f"{request.shelf.ask.operation.name.lower()} in {request.memory!r}"
    last = f"; the last failure: {request.failure}" if request.failure else ""
    error = TimeoutExceeded(f"no answer in time to a {what}{last}")
    error.__cause__ = request.failure
    return error
