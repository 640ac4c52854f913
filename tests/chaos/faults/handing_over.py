"""A shard that ends while memories go from it to another one, or come to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tests.chaos import hooks
from tests.chaos.tally import Run, fault
from tests.support.shard_process import Hook, ShardProcess

from attractor_proto.names import SLOTS
from attractor_server.sharding.slots import GROUPS
from attractor_server.sharding.topology import Topology

ATTEMPTS = 20


@dataclass
class _Pair:
    """Two shards of one store, of which one owns everything."""

    shards: tuple[ShardProcess, ShardProcess]
    owner: int = 0
    epoch: int = 0

    def move(self, owner: int) -> None:
        """Tells both at the same time who owns everything from now on."""
        self.owner, self.epoch = owner, self.epoch + 1
        for shard in self.shards:
            shard.tell(self._topology)
        for shard in self.shards:
            shard.held()

    def restart(self, number: int, *more: Hook) -> None:
        """Kills and starts that shard, and tells it what the other one knows."""
        self.shards[number].kill()
        self.shards[number].start(*more)
        self.settle()

    def settle(self) -> None:
        """Tells both again, as a supervisor does, until the owner has everything."""
        for _ in range(ATTEMPTS):
            for shard in self.shards:
                shard.tell(self._topology)
            held = [shard.held() for shard in self.shards]
            if held[self.owner] == frozenset(range(GROUPS)):
                return
        raise AssertionError(f"shard {self.owner} was told to own everything, and does not")

    @property
    def _topology(self) -> Topology:
        infos = tuple(shard.info for shard in self.shards)
        return Topology(self.epoch, infos, np.full(SLOTS, self.owner, np.int32))


@contextmanager
def _pair(run: Run) -> Iterator[_Pair]:
    first, second = (ShardProcess(replace(run.spec(), number=n), *run.hooks, alone=False) for n in range(2))
    with first, second:
        pair = _Pair((first, second))
        pair.move(0)
        yield pair


@fault("crash-during-move", times=10, short=2)
def crash_during_move(run: Run) -> None:
    """The old owner ends before it has released what it left, or the new one when it has claimed it."""
    with _pair(run) as pair, run.checker(pair.shards[0].address) as checker:
        for number in run.turns(checker):
            old, new = pair.owner, 1 - pair.owner
            if number % 2:
                ends = new
                pair.restart(new, hooks.crash_with_claim)
            else:
                ends = old
                pair.restart(old, partial(hooks.crash, "before-release", 1))
            checker.served()
            pair.move(new)
            pair.shards[ends].ended()
            if ends == new and run.random.random() < 0.5:
                pair.shards[new].start()
                pair.move(old)
            else:
                pair.restart(ends)
