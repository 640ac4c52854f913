"""The other shards: a channel kept open to each, and unary calls passed on to them."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from grpc import aio

from attractor_proto.names import MESSAGE_LIMIT_BYTES, ROUTE_KEY
from attractor_proto.traces import TRACE_KEY, format_trace
from attractor_server.errors import OwnerUnreachable
from attractor_server.memories.names import namespace_of
from attractor_server.recorder import SILENT, Recorder
from attractor_server.rpc.context import Context, get_access, get_facts, is_forwarded, read_trace
from attractor_server.rpc.credentials import open_channel
from attractor_server.rpc.errors import ForwardedError
from attractor_server.rpc.fellows import Fellows
from attractor_server.shard.certificates import Certificates
from attractor_server.shard.shard import Shard
from attractor_server.sharding.topology import ShardInfo

Request = TypeVar("Request")

Answer = TypeVar("Answer")

Response = TypeVar("Response", covariant=True)

LAST_ANSWERS_S = 1.0
"""Time in which a shard that owns nothing any more answers what it accepted"""

_LAST_CALLS_S = 7200.0
"""Time for calls on a channel made with certificates of before: longer than its connection lasts"""

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),  # shards reach one another directly, whatever `http_proxy` says
    ("grpc.enable_retries", 0),
)


class Call(Awaitable[Response], Protocol[Response]):
    """A call that was made."""

    def cancel(self) -> bool:
        """End it."""


class Peers:
    """Channels to other shards by address, opened at first use and closed together."""

    def __init__(
        self, fellows: Fellows, certificates: Certificates | None = None, *, recorder: Recorder = SILENT
    ) -> None:
        self.fellows = fellows
        self.recorder = recorder
        self._certificates = certificates
        self._channels: dict[str, aio.Channel] = {}
        self._former: list[tuple[float, aio.Channel]] = []
        """Channels made with certificates of before, and when they are closed"""
        self._owners: Collection[str] = ()
        self._ends: dict[str, set[Callable[[], object]]] = defaultdict(set)

    def channel(self, peer: ShardInfo) -> aio.Channel:
        """Return the channel to that shard; owned by this object."""
        if (channel := self._channels.get(peer.address)) is None:
            contents = None if self._certificates is None else self._certificates.current
            channel = self._channels[peer.address] = open_channel(peer.address, _OPTIONS, contents)
        return channel

    async def renew(self) -> None:
        """Use the certificates as they are now for later calls; those under way go on."""
        now_s = asyncio.get_running_loop().time()
        self._former += [(now_s + _LAST_CALLS_S, channel) for channel in self._channels.values()]
        self._channels = {}
        ended = [channel for end_s, channel in self._former if end_s <= now_s]
        self._former = [(end_s, channel) for end_s, channel in self._former if end_s > now_s]
        for channel in ended:
            await channel.close()

    async def close(self) -> None:
        """End all calls to other shards."""
        for channel in (*self._channels.values(), *(channel for _, channel in self._former)):
            await channel.close()

    def keep_only(self, owners: Collection[str]) -> None:
        """End, in a moment, the calls to all shards but these, which own nothing: a stopped one would never answer."""
        self._owners = owners
        loop = asyncio.get_running_loop()
        for address in self._ends.keys() - set(owners):
            loop.call_later(LAST_ANSWERS_S, self._end, address)

    @contextmanager
    def track_call(self, peer: ShardInfo, end: Callable[[], object]) -> Iterator[None]:
        """Hold a call to that shard under way; `end` is called if the shard owns nothing any more."""
        ends = self._ends[peer.address]
        ends.add(end)
        try:
            yield
        finally:
            ends.discard(end)

    async def forward(
        self,
        call: Callable[..., "Call[Response]"],
        request: object,
        context: Context,
        peer: ShardInfo,
        *,
        own: bool = False,
    ) -> Response:
        """Return the owner's answer, or raise its error, with a routing hint in the trailing metadata.

        An `own` call is this shard's, on no client's behalf.

        Raises:
            OwnerUnreachable: the shard that owns the memory did not answer.
        """
        if is_forwarded(context):
            raise disagreement_error()
        if not own:
            get_facts(context).passed_on = True
            self.recorder.record_forwarded("call")
        context.set_trailing_metadata(((ROUTE_KEY, peer.address),))
        origin, principal = None, None
        if not own:
            origin, principal = await self.fellows.read_origin(context), get_access(context).principal
        metadata = await self.fellows.make_metadata(origin, principal)
        if parent := read_trace(context):
            metadata = (*metadata, (TRACE_KEY, format_trace(parent)))
        answer = call(request, timeout=context.time_remaining(), metadata=metadata)
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            given_up = answer.cancel()

        try:
            with self.track_call(peer, give_up), self.recorder.trace_forward(parent):
                return await answer
        except asyncio.CancelledError:
            if given_up:
                raise unreachable_error(peer) from None
            raise
        except aio.AioRpcError as error:
            trailing = tuple(error.trailing_metadata() or ())
            if error.code() is grpc.StatusCode.UNAVAILABLE and not trailing:
                raise unreachable_error(peer) from None
            raise ForwardedError(error.code(), error.details() or "", trailing) from None

    def _end(self, address: str) -> None:
        if address not in self._owners:
            for end in list(self._ends.pop(address, ())):
                end()


class Servicer(Protocol):
    """A servicer of one shard among others."""

    _shard: Shard
    _peers: Peers


ServicerType = TypeVar("ServicerType", bound=Servicer)

Method: TypeAlias = Callable[[ServicerType, Request, Context], Coroutine[Any, Any, Answer]]
"""A unary method of a servicer"""


def owner_answers(
    stub: Callable[[aio.Channel], object], *, field: str = "name"
) -> Callable[[Method[ServicerType, Request, Answer]], Method[ServicerType, Request, Answer]]:
    """Pass a call on to the shard that owns its memory, by the method of that name of `stub`, unless it is this one.

    Args:
        stub: Of the service.
        field: Of the request, with the memory's name.
    """

    def decorate(method: Method[ServicerType, Request, Answer]) -> Method[ServicerType, Request, Answer]:
        @wraps(method)
        async def answer(self: ServicerType, request: Request, context: Context) -> Answer:
            if peer := self._shard.owner(getattr(request, field), field=field):
                call = getattr(stub(self._peers.channel(peer)), method.__name__)
                forwarded: Answer = await self._peers.forward(call, request, context, peer)
                return forwarded
            self._shard.rates.check(namespace_of(getattr(request, field)), requests=1)
            return await method(self, request, context)

        return answer

    return decorate


def unreachable_error(peer: ShardInfo) -> OwnerUnreachable:
    """Return the error of a request whose owner is gone."""
    return OwnerUnreachable(f"the shard at {peer.address} does not answer; try again in a moment")


def disagreement_error() -> OwnerUnreachable:
    """Return the error of a request that was passed on to a shard that does not own the memory either."""
    return OwnerUnreachable("the shards disagree on who owns this memory; try again in a moment")
