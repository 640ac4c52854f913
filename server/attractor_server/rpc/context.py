"""The gRPC context of one call, as servicers use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from grpc import aio

from attractor_proto.names import FORWARDED_KEY
from attractor_proto.traces import TRACE_KEY, parse_trace
from attractor_server.identity.access import Access
from attractor_server.recorder import RequestTrace
from attractor_server.shard.budget import Account

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


@dataclass(eq=False, slots=True)
class CallFacts:
    """Facts of a call that its servicer finds out, for the record of it."""

    model: str = ""
    """Name of the model that its memory is of"""
    trace: RequestTrace | None = None
    passed_on: bool = False
    """Whether another shard answers it"""


FORWARDED = ((FORWARDED_KEY, "1"),)
"""Metadata of a call that a shard makes on a client's behalf."""


def read_metadata(context: Context, key: str) -> str:
    """Return the text that the caller sent under that key; empty where it sent none."""
    values = [value for name, value in context.invocation_metadata() or () if name == key]
    return values[0] if values and isinstance(values[0], str) else ""


def read_bytes(context: Context, key: str) -> bytes:
    """Return the bytes that the caller sent under that key, which ends in -bin; none where it sent none."""
    values = [value for name, value in context.invocation_metadata() or () if name == key]
    return values[0] if values and isinstance(values[0], bytes) else b""


def get_access(context: Context) -> Access:
    """Return what the caller may do."""
    access = getattr(context, "access", None)
    assert isinstance(access, Access)
    return access


def get_account(context: Context) -> Account:
    """Return the call's account of the shard's memory."""
    account = getattr(context, "account", None)
    assert isinstance(account, Account)
    return account


def read_trace(context: Context) -> bytes:
    """Return the context of the trace that the caller sent, as frames have it; empty where it sent none."""
    return parse_trace(header) if (header := read_metadata(context, TRACE_KEY)) else b""


def get_facts(context: Context) -> CallFacts:
    """Return the facts of the call, to be added to."""
    facts = getattr(context, "facts", None)
    assert isinstance(facts, CallFacts)
    return facts


def get_address(context: Context, callers: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the address that the call comes from, without its port; of a connection that was passed on its own."""
    peer = str(context.peer())
    return callers.get(peer, peer).rpartition(":")[0]


def is_forwarded(context: Context) -> bool:
    """Return whether this call is not to be passed on again. That the caller is a shard only `Fellows` can tell."""
    return any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ())
