"""How a session begins: the client's hello, and the welcome it gets."""

from itertools import islice

import anyio

from attractor_proto.names import CLIENT_ID_LIMIT, PROTOCOL_VERSION
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import InvalidRequest, UnsupportedProtocol, Violation, quoted
from attractor_server.rpc.context import Context
from attractor_server.rpc.shard import Shard
from attractor_server.topology import Topology

HELLO_TIMEOUT_S = 20.0
OTHERS = 8
"""Shards that a client is told of"""


async def greeted(context: Context) -> pb.Hello:
    """The hello of a client that can be served.

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
        return frame.hello
    raise InvalidRequest.of("frame", f"saw nothing for {HELLO_TIMEOUT_S:g} s; expected hello")


def welcome(shard: Shard) -> pb.Welcome:
    """What a client is told of the shard.

    Raises:
        Unavailable: the shard does not know the others yet.
    """
    return pb.Welcome(
        protocol_version=PROTOCOL_VERSION,
        shard=shard.number,
        epoch=shard.topology.epoch,
        frame_patterns_limit=shard.limits.frame_patterns,
        message_bytes_limit=shard.limits.message_bytes,
        others=_others(shard.topology, shard.number),
    )


def _others(topology: Topology, number: int) -> list[str]:
    """Addresses of the next few that own something, so that not all clients of a lost shard go to the same."""
    following = [*topology.shards[number + 1 :], *topology.shards[:number]]
    return list(islice((shard.address for shard in following if shard.address in topology.owning), OTHERS))


def _check(hello: pb.Hello) -> None:
    if hello.protocol_version != PROTOCOL_VERSION:
        seen = f"saw {hello.protocol_version}; expected {PROTOCOL_VERSION}"
        raise UnsupportedProtocol(
            Violation("hello.protocol_version", f"{seen}: upgrade the older of client and server")
        )
    if not 0 < len(hello.client_id) <= CLIENT_ID_LIMIT or "\0" in hello.client_id:
        seen = f"saw {quoted(hello.client_id)}, {len(hello.client_id)} characters"
        raise InvalidRequest.of("hello.client_id", f"{seen}; expected 1 to {CLIENT_ID_LIMIT}, none of them U+0000")
