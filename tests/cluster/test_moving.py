"""Groups of slots change their shard over real Ray: planned, after a crash, and while a shard is stopped.

All on one server: from its stand-in, which the first test is clients of, to its end, which is the last test's.
"""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from tests.support import raw
from tests.support.cluster_calls import groups_of, name_on, process_of, scaled, supervisors, topology
from tests.support.server_process import ServerProcess, drained, server_process, until
from tests.support.writer import ONE, QUICK, Writer

import attractor
from attractor_proto.names import FORWARDED_KEY
from attractor_proto.v1 import memory_data_pb2 as data_pb
from attractor_proto.v1 import memory_data_pb2_grpc as data_rpc

pytestmark = pytest.mark.timeout(300)  # shards start several times
PAUSE_S = 10.0
HERE = ((FORWARDED_KEY, "1"),)
"""Not passed on to another shard"""


def tell(line: str) -> None:
    """For whoever runs the tests with -s."""
    sys.stdout.write(f"{line}\n")


@pytest.fixture(scope="module")
def pair(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two shards that keep memories, from the stand-in on, and have the most moves behind them at the last test."""
    folder = str(tmp_path_factory.mktemp("data"))
    flags = ("--models", str(models), "--shards", "2", "--port", "0", "--log-level", "info", "--data-dir", folder)
    with server_process(*flags, early=True) as running:
        yield running


@pytest.fixture
def settled_pair(pair: ServerProcess) -> ServerProcess:
    until(lambda: [len(groups_of(pair, number)) for number in (0, 1)] == [32, 32])
    return pair


def refused(answer: "grpc.Future[Any]") -> bool:
    """Whether a call ended so that it may be repeated, and changed nothing."""
    assert isinstance(answer, grpc.Call)
    return answer.exception(timeout=30) is not None and answer.code() is grpc.StatusCode.UNAVAILABLE


def test_clients_of_the_stand_in_go_on_with_shards_that_come_and_go_and_never_see_an_error(pair: ServerProcess) -> None:
    """A third shard is asked for before there are any, and waited for."""
    server = pair
    assert not server.shard_processes()
    address, writers = server.address, [Writer(server.address, f"load/{n}") for n in range(4)]
    with (
        writers[0].at_work(),
        writers[1].at_work(),
        writers[2].at_work(),
        writers[3].at_work(),
        attractor.Client(server.address, retry=QUICK, timeout_s=20) as client,
    ):
        memories = [client.create_memory(f"some/{n}", model="tiny") for n in range(16)]
        for n, memory in enumerate(memories):
            memory.store(ONE * n / 16)
        before = [memory.query(ONE * n / 16) for n, memory in enumerate(memories)]
        for shards in (3, 2):
            begun_s = time.monotonic()
            scaled(server, shards)
            tell(f"{shards} shards after {time.monotonic() - begun_s:.1f} s")
            assert len(topology(server.address).shards) == shards
            counts = [len(writer.versions) for writer in writers]
            until(lambda counts=counts: all(len(w.versions) > c for w, c in zip(writers, counts, strict=True)))  # type: ignore[misc]
        server.relieve()
        assert server.address == address
        until(lambda: len(server.shard_processes()) == 2)
        for n, memory in enumerate(memories):
            after = memory.query(ONE * n / 16)
            np.testing.assert_allclose(after.pattern, before[n].pattern, rtol=1e-5, atol=1e-5)
        assert {info.version for info in client.memories("some/")} == {1}
    with attractor.Client(server.address, retry=QUICK, timeout_s=20) as client:
        for writer in writers:
            assert writer.error is None
            assert writer.versions == list(range(1, len(writer.versions) + 1))
            assert writer.slowest_s < PAUSE_S
            assert client.memory(writer.name).info().patterns == len(writer.versions)
    tell(f"slowest store and query: {max(writer.slowest_s for writer in writers):.2f} s")


def test_a_shard_that_was_stopped_until_it_lost_its_slots_neither_writes_nor_reads(settled_pair: ServerProcess) -> None:
    server = settled_pair
    name, victim = name_on(server, 1, "stopped"), process_of(server, 1)
    address = topology(server.address).shards[1].address
    with (
        attractor.Client(server.address, timeout_s=60, retry=QUICK) as client,
        grpc.insecure_channel(address) as straight,
    ):
        memory, unary = client.create_memory(name, model="tiny"), data_rpc.MemoryDataStub(straight)
        assert memory.store(ONE).version == 1
        victim.suspend()
        try:
            stopped_s = time.monotonic()
            store = data_pb.StoreRequest(memory=name, tensors=[raw.tensor(ONE)])
            query = data_pb.QueryRequest(memory=name, tensors=[raw.tensor(ONE)])
            late_store = unary.Store.future(store, timeout=60, metadata=HERE)
            late_query = unary.Query.future(query, timeout=60, metadata=HERE)
            with attractor.Client(server.address, timeout_s=60, retry=QUICK) as other:
                assert other.memory(name).store(ONE).version == 2
            tell(f"taken over {time.monotonic() - stopped_s:.1f} s after it was stopped")
        finally:
            victim.resume()
        assert refused(late_store)
        assert refused(late_query)
        assert memory.store(ONE).version == 3
        assert memory.info().patterns == 3


def test_a_killed_shard_loses_nothing_and_its_memories_are_served_again_soon(settled_pair: ServerProcess) -> None:
    server = settled_pair
    name, victim = name_on(server, 1, "hit"), process_of(server, 1)
    writer = Writer(server.address, name)
    with writer.at_work():
        before = len(writer.versions)
        victim.kill()
        killed_s = time.monotonic()
        until(lambda: len(writer.versions) > before + 2 or writer.error is not None)
        tell(f"served again {time.monotonic() - killed_s:.2f} s after kill -9")
        until(lambda: len(groups_of(server, 1)) == 32)
        after = len(writer.versions)
        until(lambda: len(writer.versions) > after + 2 or writer.error is not None)
    assert writer.error is None
    assert writer.versions == list(range(1, len(writer.versions) + 1))


def test_shards_serve_without_a_supervisor_and_one_that_comes_back_knows_what_was(settled_pair: ServerProcess) -> None:
    server = settled_pair
    owners = list(topology(server.address).slot_owners)
    (supervisor,) = supervisors(server)
    writers = [Writer(server.address, name_on(server, shard, "alone")) for shard in (0, 1)]
    with writers[0].at_work(), writers[1].at_work():
        before = [len(writer.versions) for writer in writers]
        supervisor.kill()
        supervisor.wait(10)
        until(lambda: all(len(one.versions) > count + 3 for one, count in zip(writers, before, strict=True)))
        lines: list[str] = []

        def is_back() -> bool:
            lines.extend(drained(server.errors))
            return any("goes on from epoch" in line for line in lines)

        until(is_back)
        assert list(topology(server.address).slot_owners) == owners
    assert [writer.error for writer in writers] == [None, None]
    process_of(server, 1).kill()  # and it looks after them as before
    until(lambda: not groups_of(server, 1))
    until(lambda: len(groups_of(server, 1)) == 32)


def test_shards_that_outlived_their_command_do_not_keep_its_memories_or_ports(
    settled_pair: ServerProcess, models: Path
) -> None:
    """The last one: it ends the server of those before it."""
    server = settled_pair
    with attractor.Client(server.address, retry=QUICK) as client:
        client.create_memory("outlived", model="tiny").store(ONE)
    shards = server.shard_processes().values()
    assert len(shards) == 2
    for shard in shards:
        shard.send_signal(signal.SIGSTOP)  # so that they stay, and hold their ports, groups and leases
    server.process.kill()
    server.process.wait(10)
    words = ("--models", str(models), "--port", server.port, "--data-dir", server.folder)
    with server_process(*words, early=True) as successor:
        with attractor.Client(successor.address, retry=QUICK, timeout_s=20) as client:
            assert client.memory("outlived").info().patterns == 1
        assert all(not psutil.pid_exists(shard.pid) or shard.status() == psutil.STATUS_ZOMBIE for shard in shards)
