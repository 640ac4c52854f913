"""What a running server says of its shards, and the command that changes how many there are."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
from click.testing import CliRunner
from tests.support.server_process import ServerProcess, drained, words

from attractor_proto.names import slot_of
from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memories_pb2_grpc as rpc
from attractor_server.cli.main import main
from attractor_server.sharding.slots import GROUPS

ANSWER_S, ASK_EVERY_S = 60, 0.05
"""For a shard that was killed and is not back yet, too"""


def topology(address: str) -> pb.GetTopologyResponse:
    """As the shard there knows it; one that is about to know is waited for."""
    end_s = time.monotonic() + ANSWER_S
    with grpc.insecure_channel(address) as channel:
        while True:
            try:
                return rpc.ClusterStub(channel).GetTopology(pb.GetTopologyRequest(), timeout=ANSWER_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end_s:
                    raise
            time.sleep(ASK_EVERY_S)


def groups_of(server: ServerProcess, shard: int) -> list[int]:
    """The groups that a shard is to own."""
    owners = list(topology(server.address).slot_owners)[:GROUPS]
    return [group for group, owner in enumerate(owners) if owner == shard]


def name_on(server: ServerProcess, shard: int, prefix: str) -> str:
    """A name that begins so, of a memory that is a shard's."""
    groups = groups_of(server, shard)
    return next(name for n in range(1000) if slot_of(name := f"{prefix}/{n}", GROUPS) in groups)


def process_of(server: ServerProcess, shard: int) -> psutil.Process:
    return server.shard_processes()[port_of(server, shard)]


def port_of(server: ServerProcess, shard: int) -> int:
    """Where a shard listens."""
    return int(topology(server.address).shards[shard].address.rpartition(":")[2])


def supervisors(server: ServerProcess) -> list[psutil.Process]:
    """The supervisor's process; none while there is none."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if any("Supervisor" in word for word in words(child))]


def scaled(server: ServerProcess, shards: int, *flags: str) -> None:
    """Returns when there are so many."""
    command = ["scale", str(shards), "--server", server.address, *flags]
    with ThreadPoolExecutor(1) as thread:  # where no event loop is the tests'
        run = thread.submit(CliRunner().invoke, main, command).result()
    assert run.exit_code == 0, [run.output, run.exception, *drained(server.errors)]
