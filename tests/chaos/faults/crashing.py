"""A shard that ends at a chosen point of its code, and one whose clock is stepped."""

from contextlib import suppress
from functools import partial
from multiprocessing.sharedctypes import Synchronized

from tests.chaos import hooks
from tests.chaos.ledger import acknowledged, patterns
from tests.chaos.load import PAGE, made
from tests.chaos.tally import Run, fault, pause
from tests.support.forkserver import CONTEXT

import attractor

HITS = 30
ARRIVING_S = 0.3
"""That an answer takes to the checker's file"""
STEPS_S = (3600.0, -3600.0, 86400.0, -86400.0)


def _crash(run: Run, point: str) -> None:
    with run.shard() as shard, run.checker(shard.address) as checker:
        for _ in run.turns(checker):
            shard.kill()
            shard.start(partial(hooks.crash, point, run.random.randint(1, HITS)))
            shard.ended()
            shard.start()
        shard.stop()


@fault("crash-before-commit", times=10)
def crash_before_commit(run: Run) -> None:
    """The shard ends with a transaction written and not committed."""
    _crash(run, "before-commit")


@fault("crash-after-commit", times=10, short=1)
def crash_after_commit(run: Run) -> None:
    """The shard ends with a transaction committed, before anybody knows of it."""
    _crash(run, "after-commit")


@fault("crash-after-publish", times=10)
def crash_after_publish(run: Run) -> None:
    """The shard ends with new weights in the bank, and nothing committed."""
    _crash(run, "after-publish")


@fault("crash-before-answer", times=10)
def crash_before_answer(run: Run) -> None:
    """The shard ends with everything done but the answer."""
    _crash(run, "before-answer")


@fault("crash-after-answer", times=10, short=1)
def crash_after_answer(run: Run) -> None:
    """The shard ends when an answer has left."""
    written: Synchronized[int] = CONTEXT.Value("i", 0)
    with run.shard() as shard, run.checker(shard.address) as checker:
        for _ in run.turns(checker):
            shard.kill()
            pause(ARRIVING_S)
            written.value, before = 0, acknowledged(run.folder / "ledger")
            shard.start(partial(hooks.crash_after_answer, run.random.randint(1, HITS), written))
            shard.ended()
            pause(ARRIVING_S)
            if (told := acknowledged(run.folder / "ledger") - before) != written.value:
                run.tally.blame(f"{written.value} answers were written, and {told} came")
            shard.start()
        shard.stop()


@fault("crash-during-image", times=10)
def crash_during_image(run: Run) -> None:
    """The shard ends while it writes the image of a sealed page."""
    _crash(run, "during-image")


@fault("crash-during-delete", times=10, short=1)
def crash_during_delete(run: Run) -> None:
    """The shard ends with a memory deleted, before its bytes are folded out of the log."""
    with run.shard() as shard, run.checker(shard.address) as checker:
        for _ in run.turns(checker):
            run.do(_doom(shard.address))
            shard.kill()
            shard.start(hooks.crash_during_delete)
            run.do(_delete(shard.address))
            shard.ended()
            shard.start()
            run.do(_gone(run, shard.address))
        shard.stop()


async def _doom(address: str) -> None:
    async with attractor.connect(address) as client:
        memory = await made(client, "doomed", 0)
        await memory.store(patterns("doomed", 1, PAGE + 1))


async def _delete(address: str) -> None:
    async with attractor.connect(address) as client:
        with suppress(attractor.AttractorError):
            await client.delete_memory("doomed", timeout_s=1)


async def _gone(run: Run, address: str) -> None:
    """After a delete that was begun and repeated nothing is left of the memory, and its name is free."""
    async with attractor.connect(address) as client:
        with suppress(attractor.MemoryNotFound):
            await client.delete_memory("doomed")
        memory = await made(client, "doomed", 0)
        if (info := await memory.info()).patterns:
            run.tally.blame(f"a deleted memory came back: {info}")
        await client.delete_memory("doomed")


@fault("clock", times=10)
def clock(run: Run) -> None:
    """The wall clock steps by an hour and a day, back and forth."""
    offset_s: Synchronized[float] = CONTEXT.Value("d", 0.0)
    with run.shard(partial(hooks.step_clock, offset_s)) as shard, run.checker(shard.address) as checker:
        for number in run.turns(checker):
            offset_s.value += STEPS_S[number % len(STEPS_S)]
            pause(0.3)
            shard.kill()
            shard.start()
        shard.stop()
