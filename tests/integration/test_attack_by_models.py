"""Somebody changes the models of many memories while they are stored to: nobody else's memory pays for it."""

import os
from dataclasses import replace

from tests.support.model_attack import Scene, attacked, compare
from tests.support.shards import connected, serving
from tests.support.tiny_models import IMAGE

from attractor_server.shard.spec import ShardSpec

ATTACK_S = float(os.environ.get("ATTRACTOR_ATTACK_S", "3"))
"""The whole of it, with models that ship, is `python -m tests.chaos --only changing-models`"""
OTHERS = 40
TINY = Scene(models=("tiny", "able"), shape=(IMAGE.shape[0], IMAGE.shape[1]))


async def test_memories_of_others_answer_as_without_the_attack_and_have_all_that_was_acknowledged(
    spec: ShardSpec, on_disk: ShardSpec
) -> None:
    async with serving(replace(on_disk, check_banks=True)) as (shard,):
        findings, answers = await attacked(shard.info.address, TINY, ATTACK_S, others_count=OTHERS)
    async with connected(spec) as client:
        await compare(findings, answers, TINY, client)
    assert not findings.problems, findings
    assert findings.rounds
    assert len(answers) > 2 * OTHERS
    assert (findings.lost, findings.wrong, findings.errors) == (0, 0, {})
