"""A shard that is stopped until others have what it had, and goes on then as if nothing had happened."""

import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import numpy as np
import psutil
from tests.chaos.checker import QUICK
from tests.chaos.faults.killing import SHARDS, arguments
from tests.chaos.ledger import Images, patterns
from tests.chaos.load import KNOWN, made
from tests.chaos.tally import Run, fault
from tests.cluster.asking import groups_of, name_on, process_of, topology
from tests.cluster.process import ServerProcess, server_process, until
from tests.server.raw import tensor, values_of

import attractor
from attractor_proto.names import FORWARDED_KEY
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc
from attractor_server.storage.groups import GROUPS

HERE = ((FORWARDED_KEY, "1"),)
"""Not passed on to another shard"""
ASKED = 20
"""Queries, as many while it is stopped as after it; every other one may be passed on"""
ANSWERED_S = 60
Answer: TypeAlias = Any  # gRPC's futures are not typed


@fault("pause-shard", times=40)
def pause_shard(run: Run) -> None:
    """SIGSTOP of a shard until others have its memories, then SIGCONT: it neither writes nor answers from before."""
    with server_process(*arguments(run)) as server, run.checker(server.address) as checker:
        for number in run.turns(checker):
            until(lambda: [len(groups_of(server, shard)) for shard in range(SHARDS)] == [GROUPS // SHARDS] * SHARDS)
            _pause(run, server, number)


def _pause(run: Run, server: ServerProcess, number: int) -> None:
    shard = run.random.randrange(SHARDS)
    name, victim = name_on(server, shard, f"paused-{number}"), process_of(server, shard)
    shards = [one.address for one in topology(server.address).shards]
    with ExitStack() as stack:
        paused = _Paused(name, rpc.MemoryDataStub(stack.enter_context(grpc.insecure_channel(shards[shard]))))
        before, now = run.do(_taken_over(shards, shard, paused, victim))
        late = [paused.store(), *paused.queries()]
        _go_on(victim)
        late += paused.queries()
        for problem in _judged(late, before, now):
            run.tally.blame(f"{name}: {problem}")


@dataclass
class _Paused:
    """A memory of the shard that is stopped, and calls that go to that shard's own port."""

    name: str
    straight: rpc.MemoryDataStub

    def store(self) -> Answer:
        given = pb.StoreRequest(memory=self.name, tensors=[tensor(patterns(self.name, 3))])
        return self.straight.Store.future(given, timeout=ANSWERED_S, metadata=HERE)

    def query(self, *, here: bool) -> Answer:
        given = pb.QueryRequest(memory=self.name, tensors=[_cue(self.name)])
        return self.straight.Query.future(given, timeout=ANSWERED_S, metadata=HERE if here else ())

    def queries(self) -> Sequence[Answer]:
        return [self.query(here=bool(number % 2)) for number in range(ASKED)]


def _cue(name: str) -> pb.Tensor:
    given = patterns(name, 1)
    return tensor(given, known=np.broadcast_to(KNOWN, given.shape))


async def _taken_over(
    shards: Sequence[str], stopped: int, paused: _Paused, victim: psutil.Process
) -> tuple[Images, Images]:
    """Stops it, and stores through another shard; what the memory answered before, and answers now."""
    other = shards[(stopped + 1) % len(shards)]
    async with attractor.connect(other, timeout_s=ANSWERED_S, retry=QUICK, direct=False) as client:
        memory = await made(client, paused.name, 1)
        await memory.store(patterns(paused.name, 1))
        before = values_of(paused.query(here=True).result().tensors[0])
        victim.suspend()
        try:
            await memory.store(patterns(paused.name, 2))
            given = patterns(paused.name, 1)
            now = await memory.query(given, known=np.broadcast_to(KNOWN, given.shape))
        except BaseException:
            _go_on(victim)
            raise
    return before, now.pattern


def _go_on(victim: psutil.Process) -> None:
    if victim.is_running():  # whoever took over may have ended it
        victim.send_signal(signal.SIGCONT)


def _judged(late: Sequence[Answer], before: Images, now: Images) -> list[str]:
    """What is wrong with answers of a shard that has lost the memory: a store that was made, or what was before."""
    problems = [] if np.abs(now - before).max() > 1e-3 else ["a store changed nothing that could be seen"]
    for number, answer in enumerate(late):
        if answer.exception() is not None:
            if answer.code() is not grpc.StatusCode.UNAVAILABLE:
                problems.append(f"late call {number} was told {answer.code()}: {answer.details()}")
        elif number == 0:
            problems.append(f"a late store was acknowledged: {answer.result()}")
        elif np.abs(values_of(answer.result().tensors[0]) - now).max() > 1e-4:
            problems.append(f"late query {number} was answered from before")
    return problems
