"""Figures of answers, memory by memory, and the rows made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.training.baselines import nearest
from attractor_server.training.evaluation import SCORES, auroc
from attractor_server.training.quality.bench import Bench, Probe
from attractor_server.training.quality.intervals import over_memories
from attractor_server.training.quality.rows import Family, Row, Table
from attractor_server.training.validation import familiarity, judged


@dataclass(frozen=True, kw_only=True)
class Method:
    """Whose answers a row is about, and what they take."""

    name: str
    family: Family
    bytes: int


def row_of(  # noqa: PLR0913
    bench: Bench,
    probe: Probe,
    method: Method,
    answers: Tensor,
    *,
    auroc: float | None = None,
    table: Table = "quality",
    at: float | None = None,
    chosen: slice = slice(None),
) -> Row:
    """The row of answers to the probe's cues (memories, cues, values), of the `chosen` ones of them."""
    value, interval = over_memories(scores(bench, probe.patterns, answers)[:, chosen].mean(1).tolist())
    right, right_interval = over_memories(hits(bench, probe.patterns, answers)[:, chosen].mean(1).tolist())
    return Row(
        table=table,
        model=bench.recipe.name,
        cue=probe.cue,
        count=probe.count,
        method=method.name,
        family=method.family,
        metric=bench.recipe.data.metric,
        value=value,
        interval=interval,
        identified=right,
        identified_interval=right_interval,
        auroc=auroc,
        bytes=method.bytes,
        at=at,
        memories=len(answers),
    )


def scores(bench: Bench, patterns: Tensor, answers: Tensor) -> Tensor:
    """The metric of each answer (memories, m): the right ones are the first m of the patterns (memories, n, values)."""
    data = bench.recipe.data
    truth = patterns[:, : answers.shape[1]]
    return SCORES[data.metric](*(judged(bench.model, data, x) for x in (answers, truth)))


def hits(bench: Bench, patterns: Tensor, answers: Tensor) -> Tensor:
    """Whether the stored pattern nearest to each answer is the right one, 0 or 1 (memories, m)."""
    found = nearest(*(judged(bench.model, bench.recipe.data, x) for x in (answers, patterns)))
    return (found == torch.arange(answers.shape[1])).float()


def told_apart(bench: Bench, fast: Tensors, probe: Probe) -> float:
    """The AUROC of ΔE: cues of what is stored against cues of what is not."""
    own, other = (familiarity(bench.model, fast, cues) for cues in (probe.cues, probe.unseen))
    return auroc(-own, -other)
