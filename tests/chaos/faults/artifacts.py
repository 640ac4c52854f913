"""An artifact store that answers errors."""

from functools import partial
from multiprocessing.sharedctypes import Synchronized

from tests.chaos import hooks
from tests.chaos.ledger import patterns
from tests.chaos.load import PAGE, made
from tests.chaos.tally import Run, fault, pause
from tests.support.forkserver import CONTEXT

import attractor

FAILING_S = 1.0


@fault("artifacts-failing", times=10, short=1)
def artifacts_failing(run: Run) -> None:
    """For a second the artifact store answers errors, half of them late; every other time the shard is killed then."""
    failing: Synchronized[int] = CONTEXT.Value("b", 0)
    hook = partial(hooks.failing_artifacts, failing)
    with run.shard(hook, artifacts=run.folder / "artifacts") as shard, run.checker(shard.address) as checker:
        for number in run.turns(checker):
            failing.value = 1
            if "failed at images" not in (said := run.do(_told(shard.address, f"told-{number}"))):
                run.tally.blame(f"stores of whole pages were told {said!r}")
            pause(FAILING_S)
            failing.value = 0
            if number % 2:
                shard.kill()
                shard.start()
        shard.stop()


async def _told(address: str, name: str) -> str:
    """What stores of whole pages are told."""
    async with attractor.connect(address) as client:
        memory = await made(client, name, 1)
        try:
            for number in range(4):
                await memory.store(patterns(name, number * PAGE + 1, PAGE), timeout_s=2)
        except attractor.AttractorError as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"
