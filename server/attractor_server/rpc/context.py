"""The gRPC context of one call, as servicers use it."""

from typing import Any, TypeAlias

from grpc import aio

from attractor_proto.names import FORWARDED_KEY

Context: TypeAlias = "aio.ServicerContext[Any, Any]"

FORWARDED = ((FORWARDED_KEY, "1"),)
"""Metadata of a call that a shard makes on a client's behalf."""


def is_forwarded(context: Context) -> bool:
    """Whether another shard sent this call: it is not passed on again."""
    return any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ())
