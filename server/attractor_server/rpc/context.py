"""The gRPC context of one call, as servicers use it."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from grpc import aio

from attractor_proto.names import FORWARDED_KEY
from attractor_server.errors import InvalidRequest

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


@dataclass(frozen=True)
class Unread:
    """A message that is none of the kind that the call takes."""

    error: str


FORWARDED = ((FORWARDED_KEY, "1"),)
"""Metadata of a call that a shard makes on a client's behalf."""
FELLOW_KEY = "attractor-fellow"
"""Metadata between shards: the secret of the store that both read, where only a fellow shard may ask."""


def claims_fellow(context: Context) -> str:
    """The secret that the caller gives to prove that it is a shard of this store; empty where it gives none."""
    values = [value for key, value in context.invocation_metadata() or () if key == FELLOW_KEY]
    return values[0] if values and isinstance(values[0], str) else ""


def is_forwarded(context: Context) -> bool:
    """Whether another shard sent this call: it is not passed on again. Proves nothing, as anybody may say so."""
    return any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ())


async def received(context: Context) -> object:
    """The next message of a stream; grpc.aio.EOF at its end.

    Raises:
        InvalidRequest: it cannot be decoded.
    """
    return decoded(await context.read())


def decoded(message: object) -> object:
    """The message, which was decoded.

    Raises:
        InvalidRequest: it could not be.
    """
    if isinstance(message, Unread):
        raise InvalidRequest.of("request", f"saw bytes that are no message ({message.error}); expected one of the call")
    return message
