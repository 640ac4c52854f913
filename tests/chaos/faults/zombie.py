"""Two incarnations of one shard side by side, as Ray was seen to run them."""

import signal
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from tests.chaos.ledger import History
from tests.chaos.load import made, send
from tests.chaos.straight import Straight, stale
from tests.chaos.tally import Run, fault
from tests.chaos.verifying import verify

import attractor

STORES = 3
REFUSED_S = 2.0


@dataclass
class _Memory:
    """One memory that both incarnations are asked to store to."""

    name: str
    history: History = field(default_factory=History)

    async def store(self, address: str, timeout_s: float = 30) -> None:
        """One more pattern, by the shard at that address."""
        number = self.history.acknowledged + 1
        async with attractor.connect(address) as client:
            try:
                answer = await send(client.memory(self.name), self.name, number, timeout_s=timeout_s)
            except attractor.AttractorError:
                return
        self.history.sent += 1
        self.history.answers.append((answer.version, answer.total))


@fault("zombie", times=10, short=1)
def zombie(run: Run) -> None:
    """A stopped shard wakes up after its successor has taken over."""
    for number in range(run.times):
        data = run.folder / f"data-{number}"
        memory = _Memory(f"zombie/busy/0/{number}")
        with run.shard(data=data) as old, run.shard(data=data) as new:
            new.kill()
            old.kill()
            old.start()
            run.do(_begin(memory, old.address))
            with grpc.insecure_channel(old.address) as before, grpc.insecure_channel(new.address) as after:
                straight = Straight(before, memory.name)
                once = straight.recalled()
                old.signal(signal.SIGSTOP)
                new.start()
                run.do(memory.store(new.address))
                now, late = Straight(after, memory.name).recalled(), [*straight.queries()]
                old.signal(signal.SIGCONT)
                run.do(memory.store(old.address, REFUSED_S))
                problems = stale([*late, *straight.queries()], once, now)
            run.do(_judge(run, memory, new.address, run.models))
            for problem in problems:
                run.tally.blame(f"{memory.name}: {problem}")
            run.do(memory.store(new.address))
            run.do(_judge(run, memory, new.address, run.models))
        run.tally.times += 1


async def _begin(memory: _Memory, address: str) -> None:
    async with attractor.connect(address) as client:
        await made(client, memory.name, int(memory.name.rpartition("/")[2]))
    for _ in range(STORES):
        await memory.store(address)


async def _judge(run: Run, memory: _Memory, address: str, models: Path) -> None:
    async with attractor.connect(address) as client:
        run.tally.add(await verify(client, {memory.name: memory.history}, {}, models))
