"""A client that changes the models of its memories while they are stored to."""

from dataclasses import replace

from tests.chaos.tally import Run, fault
from tests.chaos.verifying import alone
from tests.support.model_attack import CALL_S, Findings, Scene, attacked, compare
from tests.support.shard_process import ShardProcess

import attractor
from attractor_server.shard.spec import ShardSpec

SECONDS = 60.0
BANK_BYTES = 256 << 20
GLYPHS = Scene(models=("glyphs-28", "glyphs-28-small"), shape=(28, 28), block=4)


@fault("changing-models", times=1)
def changing_models(run: Run) -> None:
    """Memories are restored to snapshots of another model and stored to at once, for a minute, beside 240 of others."""
    for number in range(run.times):
        spec, twin = (
            replace(run.spec(run.folder / f"{name}-{number}"), bank_bytes=BANK_BYTES, check_banks=True)
            for name in ("data", "twin")
        )
        with ShardProcess(spec, *run.hooks) as shard:
            findings = run.do(_judged(shard.address, twin))
            shard.stop()
        run.tally.times += 1
        run.tally.stores += findings.stores
        run.tally.lost += findings.lost
        run.tally.wrong += findings.wrong
        for problem in findings.problems:
            run.tally.blame(problem)


async def _judged(address: str, spec: ShardSpec) -> Findings:
    """The findings at that server; `spec` is of one to compare with."""
    findings, answers = await attacked(address, GLYPHS, SECONDS)
    async with alone(spec) as shard, attractor.connect(shard.info.address, timeout_s=CALL_S) as twin:
        await compare(findings, answers, GLYPHS, twin)
    return findings
