"""One session stream, from `hello` to its end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

import anyio
import grpc
from grpc import aio

from attractor._concurrency import raise_if_cancelled
from attractor._errors import Closed, ProtocolMismatch, Unavailable, Unreachable, from_rpc
from attractor._session.channel import Channel
from attractor._settings import Limits
from attractor._token import Metadata
from attractor_proto.names import PROTOCOL_VERSION
from attractor_proto.v1 import memory_data_pb2 as pb


def _read_agent() -> str:
    try:
        return f"attractor-python/{version('attractor')}"
    except PackageNotFoundError:
        return "attractor-python"


_AGENT = _read_agent()  # here, because it reads a file
Call: TypeAlias = "aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]"


class Session:
    """An open stream. One task reads and one writes."""

    def __init__(self, call: Call, limits: Limits, shards: Sequence[str] = ()) -> None:
        self._call = call
        self.limits = limits
        self.shards = shards
        """Addresses of shards of the same server"""

    async def write(self, message: pb.SessionRequest) -> bool:
        """Send a message, as fast as the server takes it. Return False if the stream has ended: `read` says why."""
        try:
            await self._call.write(message)
        except (grpc.RpcError, aio.UsageError, asyncio.InvalidStateError):
            return False
        return True

    async def read(self) -> pb.SessionResponse | None:
        """Return the next frame, or None where the server ended the stream without an error.

        Raises:
            AttractorError: why the stream ended.
        """
        return await _read(self._call)


@asynccontextmanager
async def open_session(
    channel: Channel, client_id: str, timeout_s: float, metadata: Metadata = ()
) -> AsyncIterator[Session]:
    """Open a stream and wait for the server's welcome; cancel the stream at the end.

    Raises:
        Unreachable: no answer within the timeout.
        HandshakeFailed: client and server do not agree on TLS.
        ProtocolMismatch: the server speaks another version.
        AttractorError: another answer of the server.
    """
    call = channel.data.Session(metadata=metadata)
    try:
        welcome = await _shake_hands(call, channel, client_id, timeout_s)
        yield Session(call, _decode_limits(welcome), list(welcome.shards))
    finally:
        call.cancel()


async def _shake_hands(call: Call, channel: Channel, client_id: str, timeout_s: float) -> pb.Welcome:
    address = channel.address
    hello = pb.Hello(protocol_version=PROTOCOL_VERSION, client_id=client_id, agent=_AGENT)
    try:
        with anyio.fail_after(timeout_s):
            if not await Session(call, Limits()).write(pb.SessionRequest(hello=hello)):
                await call.code()
            response = await _read(call)
    except TimeoutError as error:
        raise Unreachable(f"no answer from {address} within {timeout_s:g} s") from error
    except Unavailable as error:
        why = await channel.explain(error, limit_s=timeout_s)
        if why is not error:
            raise why from error
        raise Unreachable(f"cannot reach {address}: {error}", reason=error.reason) from error
    if response is None:
        raise Unreachable(f"{address} ended the session without a welcome")
    welcome = response.welcome
    if not response.HasField("welcome") or welcome.protocol_version != PROTOCOL_VERSION:
        seen = f"version {welcome.protocol_version}" if response.HasField("welcome") else "no welcome"
        raise ProtocolMismatch(f"{address} speaks another protocol: saw {seen}; expected version {PROTOCOL_VERSION}")
    return welcome


def _decode_limits(welcome: pb.Welcome) -> Limits:
    unset = Limits()
    return Limits(
        welcome.frame_patterns_limit or unset.patterns,
        min(welcome.message_bytes_limit or unset.message_bytes, unset.message_bytes),
    )


async def _read(call: Call) -> pb.SessionResponse | None:
    try:
        response = await call.read()
    except grpc.RpcError as error:
        raise from_rpc(error) from None
    except aio.UsageError as error:
        raise Closed("the connection was closed") from error
    except asyncio.CancelledError as error:
        await raise_if_cancelled()
        raise Closed("the connection was closed") from error
    return response if isinstance(response, pb.SessionResponse) else None
