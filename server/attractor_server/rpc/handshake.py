"""The beginning of a session: the client's hello, and the welcome it gets."""

import random

import anyio

from attractor_proto.names import PROTOCOL_VERSION
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import InvalidRequest, UnsupportedProtocol, Violation
from attractor_server.rpc.context import Context
from attractor_server.rpc.validation import check_client_id
from attractor_server.shard.shard import Shard

HELLO_TIMEOUT_S = 20.0

SHARDS_TOLD = 16

AGENT_KEPT = 256
"""Characters of what a client calls itself"""


async def receive_hello(context: Context) -> pb.Hello:
    """Wait for the hello of a client that can be served.

    Raises:
        InvalidRequest: there is none, or it cannot be meant.
        UnsupportedProtocol: it is of another version.
    """
    with anyio.move_on_after(HELLO_TIMEOUT_S):
        frame = await context.read()
        if not isinstance(frame, pb.SessionRequest) or not frame.HasField("hello"):
            kind = frame.WhichOneof("frame") if isinstance(frame, pb.SessionRequest) else "the end of the stream"
            raise InvalidRequest.of("frame", f"saw {kind}; expected hello first")
        _check(frame.hello)
        hello = frame.hello  # kept as long as the session: not with all that came beside what is read of it
        return pb.Hello(
            protocol_version=hello.protocol_version, client_id=hello.client_id, agent=hello.agent[:AGENT_KEPT]
        )
    raise InvalidRequest.of("frame", f"saw nothing for {HELLO_TIMEOUT_S:g} s; expected hello")


def welcome(shard: Shard) -> pb.Welcome:
    """Return the shard's part of the handshake.

    Raises:
        Unavailable: the shard does not know the others yet.
    """
    shards = [one.address for one in shard.topology.shards]
    return pb.Welcome(
        protocol_version=PROTOCOL_VERSION,
        shard=shard.number,
        epoch=shard.topology.epoch,
        frame_patterns_limit=shard.limits.frame_patterns,
        message_bytes_limit=shard.limits.message_bytes,
        shards=random.sample(shards, min(len(shards), SHARDS_TOLD)),
    )


def _check(hello: pb.Hello) -> None:
    if hello.protocol_version != PROTOCOL_VERSION:
        seen = f"saw {hello.protocol_version}; expected {PROTOCOL_VERSION}"
        raise UnsupportedProtocol(
            Violation("hello.protocol_version", f"{seen}: upgrade the older of client and server")
        )
    check_client_id(hello.client_id, "hello.client_id")
