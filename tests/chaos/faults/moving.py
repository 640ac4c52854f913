"""Shards come and go, as `attractor scale` says."""

from tests.chaos.faults.killing import arguments
from tests.chaos.ledger import failures
from tests.chaos.tally import Run, fault, pause
from tests.support.cluster_calls import scaled
from tests.support.server_process import server_process

APART_S = 0.5


@fault("move", times=10)
def move(run: Run) -> None:
    """`attractor scale` from one shard to two and back, and no client sees an error."""
    with server_process(*arguments(run, shards=1)) as server, run.checker(server.address) as checker:
        for _ in run.turns(checker):
            scaled(server, 2)
            pause(run.random.uniform(0, APART_S))
            scaled(server, 1)
    for failure in failures(run.folder / "ledger"):
        run.tally.blame(failure)
