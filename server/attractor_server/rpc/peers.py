"""The other shards: a channel kept open to each, and unary calls passed on to them."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from grpc import aio

from attractor_proto.names import MESSAGE_LIMIT_BYTES, ROUTE_KEY
from attractor_server.errors import OwnerUnreachable
from attractor_server.rpc.context import FORWARDED, Context, is_forwarded
from attractor_server.topology import ShardInfo

Response = TypeVar("Response")

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
)


class Peers:
    """Channels to other shards by address, opened at first use and closed together."""

    def __init__(self) -> None:
        self._channels: dict[str, aio.Channel] = {}

    def channel(self, peer: ShardInfo) -> aio.Channel:
        """The channel to that shard; owned by this object."""
        if (channel := self._channels.get(peer.address)) is None:
            channel = self._channels[peer.address] = aio.insecure_channel(peer.address, options=_OPTIONS)
        return channel

    async def close(self) -> None:
        """Ends all calls to other shards."""
        for channel in self._channels.values():
            await channel.close()


async def forward(
    call: Callable[..., Awaitable[Response]], request: object, context: Context, peer: ShardInfo
) -> Response:
    """The owner's answer, or its error, with a routing hint in the trailing metadata.

    Raises:
        OwnerUnreachable: the shard that owns the memory did not answer.
    """
    if is_forwarded(context):
        raise disagreement()
    context.set_trailing_metadata(((ROUTE_KEY, peer.address),))
    try:
        return await call(request, timeout=context.time_remaining(), metadata=FORWARDED)
    except aio.AioRpcError as error:
        trailing = tuple(error.trailing_metadata() or ())
        if error.code() is grpc.StatusCode.UNAVAILABLE and not trailing:
            raise unreachable(peer) from None
        await context.abort(
            error.code(), error.details() or "", trailing_metadata=((ROUTE_KEY, peer.address), *trailing)
        )


def unreachable(peer: ShardInfo) -> OwnerUnreachable:
    """What a client is told when the owner of its memory is gone."""
    return OwnerUnreachable(f"the shard at {peer.address} does not answer; try again in a moment")


def disagreement() -> OwnerUnreachable:
    """What a client is told when a request was passed on to a shard that does not own the memory either."""
    return OwnerUnreachable("the shards disagree on who owns this memory; try again in a moment")
