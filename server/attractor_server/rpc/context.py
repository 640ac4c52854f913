"""The gRPC context of one call, as servicers use it."""

from typing import Any, TypeAlias

from grpc import aio

from attractor_proto.names import FORWARDED_KEY
from attractor_server.shard.budget import Account

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


FORWARDED = ((FORWARDED_KEY, "1"),)
"""Metadata of a call that a shard makes on a client's behalf."""
FELLOW_KEY = "attractor-fellow"
"""Metadata between shards: the secret of the store that both read, where only a fellow shard may ask."""


def read_fellow_secret(context: Context) -> str:
    """Return the secret by which the caller proves that it is a shard of this store; empty where it sends none."""
    values = [value for key, value in context.invocation_metadata() or () if key == FELLOW_KEY]
    return values[0] if values and isinstance(values[0], str) else ""


def get_account(context: Context) -> Account:
    """Return the call's account of the shard's memory."""
    account = getattr(context, "account", None)
    assert isinstance(account, Account)
    return account


def get_address(context: Context) -> str:
    """Return the address that the call comes from, without its port."""
    return str(context.peer()).rpartition(":")[0]


def is_forwarded(context: Context) -> bool:
    """Return whether another shard sent this call: it is not passed on again. Proves nothing, as anybody may say so."""
    return any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ())
