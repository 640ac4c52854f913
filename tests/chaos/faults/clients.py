"""One client object that is opened many times, or copied, or used by many: every opening is another client."""

import numpy as np
from tests.chaos.ledger import failures, histories, order_kept, patterns
from tests.chaos.load import made, recalled
from tests.chaos.tally import SETTLE_S, Run, fault, pause
from tests.chaos.users import Using, at_work
from tests.chaos.verifying import TOLERANCE, Report, undisturbed

import attractor


@fault("client-opened-again", times=10)
def client_opened_again(run: Run) -> None:
    """A client is opened again and again, and stores, makes and deletes in each life."""
    _used(run, "open_again")


@fault("client-copied", times=10)
def client_copied(run: Run) -> None:
    """A client is copied, deep-copied and pickled while it is open, and all store at once."""
    _used(run, "copied")


@fault("client-forked", times=10, short=1)
def client_forked(run: Run) -> None:
    """A client is opened in forked children at once, and in their parent."""
    _used(run, "forked")


@fault("client-requests", times=10)
def client_requests(run: Run) -> None:
    """Ten requests at once open one global client."""
    _used(run, "requested")


def _used(run: Run, way: str) -> None:
    """Has a client used in that way; the shard is killed meanwhile, every other time."""
    notes = run.folder / "users"
    with run.shard() as shard, run.checker(shard.address) as checker:
        for number in run.turns(checker):
            name = f"users/{way}/{number}"
            run.do(_make(shard.address, name))
            with at_work(way, Using(shard.address, name, notes), run.hooks, run.tally.blame):
                if number % 2 == 0:
                    pause(run.random.uniform(0, SETTLE_S))
                    shard.kill()
                    shard.start()
            run.tally.add(run.do(_judged(run, shard.address, name)))
        shard.stop()
    for failure in failures(notes) if notes.exists() else ():
        run.tally.blame(failure)


async def _make(address: str, name: str) -> None:
    async with attractor.connect(address, timeout_s=60) as client:
        await made(client, name, 0)


async def _judged(run: Run, address: str, name: str) -> Report:
    """Holds what is kept against what was acknowledged, and what is recalled against a server that one client used."""
    notes, report = run.folder / "users", Report()
    history, order = histories(notes, name)[name], order_kept(notes, name)
    history.answers.sort()
    async with attractor.connect(address, timeout_s=60) as client, undisturbed(run.models) as twin:
        if report.judge(name, history, await client.memory(name).info()) == len(order):
            memory = await made(twin, name, 0)
            for one in order:
                await memory.store(patterns(name, one))
            given = np.concatenate([patterns(name, one) for one in sorted(order)])
            expected = await recalled(twin, name, given)
            report.compare(name, await recalled(client, name, given), expected, tolerance=TOLERANCE)
    return report
