"""The command `attractor scale`: more or fewer shards, while the server runs."""

import sys
from typing import NoReturn, TypeAlias

import anyio
import click
import grpc
from grpc import aio

import attractor
from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memories_pb2_grpc as rpc
from attractor_server.cli.options import connect, read_credentials, server_option
from attractor_server.cli.tls_options import Channels, read_tls

Metadata: TypeAlias = tuple[tuple[str, str], ...]

ASK_EVERY_S = 0.1

CALL_TIMEOUT_S = 10.0

_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@click.command()
@click.argument("shards", type=click.IntRange(min=0))
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds to wait for it.",
)
@server_option
def scale(shards: int, timeout_s: float, server: str) -> None:
    """Have a running server go on with so many SHARDS, and wait until they share what it keeps.

    0 is one for each node of the Ray cluster (each GPU with --device cuda), from then on as nodes come and go.

    Shards that go finish what they accepted; clients see calls repeated, and no error.
    """
    try:
        channels, who = Channels(server, read_tls()), read_credentials(server)
        found = anyio.run(_scale, channels, who, server, shards, timeout_s)
    except TimeoutError:
        wanted = f"{shards} shards" if shards else "a shard for each node"
        _fail(f"not {wanted} after {timeout_s:g} s; the log of the server says why")
    except (attractor.AttractorError, OSError) as error:  # of the files, or the token
        _fail(str(error))
    except aio.AioRpcError as error:
        if error.code() in _AGAIN:
            with connect(server):  # which tells in few words why it cannot be reached, if so
                pass
        _fail(error.details() or error.code().name)
    click.echo(f"{found} shard{'s share' if found > 1 else ' has'} all memories")


async def _scale(channels: Channels, who: Metadata, server: str, shards: int, timeout_s: float) -> int:
    """Ask for so many shards; return how many there are once they share what the server keeps."""
    with anyio.fail_after(timeout_s):
        async with await channels.open(server) as channel:
            first = await _first_shard(channel, who)
        who = read_credentials(first)  # or refuse to send them there
        async with await channels.open(first) as channel:
            cluster = rpc.ClusterStub(channel)
            while not await _ask(cluster, who, shards):  # noqa: ASYNC110 - of another process
                await anyio.sleep(ASK_EVERY_S)
            while not (found := await _count_shards(cluster, who, shards)):  # noqa: ASYNC110 - of another process
                await anyio.sleep(ASK_EVERY_S)
            return found


async def _ask(cluster: "rpc.ClusterAsyncStub", who: Metadata, shards: int) -> bool:
    """Ask for so many shards; return whether the server could note it: while its shards start it cannot."""
    try:
        await cluster.Scale(pb.ScaleRequest(shards=shards), timeout=CALL_TIMEOUT_S, metadata=who)
    except aio.AioRpcError as error:
        if error.code() in _AGAIN:
            return False
        raise
    return True


async def _first_shard(channel: aio.Channel, who: Metadata) -> str:
    """Return the address of shard 0: it stays for as long as the server."""
    asked = rpc.ClusterStub(channel).GetTopology(pb.GetTopologyRequest(), timeout=CALL_TIMEOUT_S, metadata=who)
    topology = await asked
    return topology.shards[0].address


async def _count_shards(cluster: "rpc.ClusterAsyncStub", who: Metadata, shards: int) -> int:
    """Return how many shards there are, if it is as was asked for; else 0."""
    try:
        topology = await cluster.GetTopology(pb.GetTopologyRequest(), timeout=CALL_TIMEOUT_S, metadata=who)
    except aio.AioRpcError as error:
        if error.code() in _AGAIN:
            return 0
        raise
    found = len(topology.shards)
    is_so = topology.follows_nodes if shards == 0 else found == shards and not topology.follows_nodes
    return found if is_so and len(set(topology.slot_owners)) == found else 0


def _fail(message: str) -> NoReturn:
    click.echo(f"attractor: {message}", err=True)
    sys.exit(2)
