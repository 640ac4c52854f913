"""A shard that is stopped until others have what it had, and goes on then as if nothing had happened."""

import signal

import grpc
import psutil
from tests.chaos.checker import QUICK
from tests.chaos.faults.killing import SHARDS, arguments
from tests.chaos.ledger import Images, patterns
from tests.chaos.load import made, recalled
from tests.chaos.straight import WAIT_S, Straight, stale, stored
from tests.chaos.tally import Run, fault
from tests.support.cluster_calls import groups_of, name_on, process_of, topology
from tests.support.server_process import ServerProcess, server_process, until

import attractor
from attractor_server.sharding.slots import GROUPS


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
    with grpc.insecure_channel(shards[shard]) as channel:
        paused = Straight(channel, name)
        before, now = run.do(_taken_over(shards[(shard + 1) % SHARDS], name, paused, victim))
        store, late = paused.store(3), [*paused.queries()]
        _go_on(victim)
        late += paused.queries()
        for problem in [*stored(store), *stale(late, before, now)]:
            run.tally.blame(f"{name}: {problem}")


async def _taken_over(other: str, name: str, paused: Straight, victim: psutil.Process) -> tuple[Images, Images]:
    """Stops it, and stores through another shard; what the memory answered before, and answers now."""
    async with attractor.connect(other, timeout_s=WAIT_S, retry=QUICK, direct=False) as client:
        memory = await made(client, name, 1)
        await memory.store(patterns(name, 1))
        before = paused.recalled()
        victim.suspend()
        try:
            await memory.store(patterns(name, 2))
            now, _, _ = await recalled(client, name, patterns(name, 1))
        except BaseException:
            _go_on(victim)
            raise
    return before, now


def _go_on(victim: psutil.Process) -> None:
    if victim.is_running():  # whoever took over may have ended it
        victim.send_signal(signal.SIGCONT)
