"""Rows of the quality tables: figures of answers, with 95 % intervals."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.training.baselines import find_nearest
from attractor_server.training.evaluation.bench import Bench, Probe
from attractor_server.training.metrics import SCORES, auroc
from attractor_server.training.validation import familiarity, select_judged_values

Table: TypeAlias = Literal[
    "quality", "patterns", "steps", "age", "precision", "erase", "repeats", "transfer", "pages", "seeds", "mixture"
]

Family: TypeAlias = Literal["memory", "control", "rival"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of a method on the test data, with 95 % intervals."""

    table: Table
    """`quality`, or the curve of this point"""
    model: str
    cue: str
    count: int
    """Patterns in a memory (N)"""
    method: str
    family: Family
    """`memory`: the model's own; `control`: no writing; `rival`: other methods"""
    metric: str
    value: float
    interval: float
    """Half its width: of the mean over memories, or over seeds where there are several"""
    identified: float
    """Share of answers whose nearest stored pattern is the right one; of a posterior, whose most probable one is"""
    identified_interval: float
    auroc: float | None = None
    """AUROC of ΔE, or of the posterior's probability, stored against unseen"""
    called_known: float | None = None
    """Share of cues of stored patterns that have a probability above one half"""
    unseen_called_known: float | None = None
    """The same of cues of patterns that are not stored"""
    right_page: float | None = None
    """Share of cues that the right one of several pages answered"""
    bytes: int
    """Bytes of one memory, without those that all memories share"""
    at: float | None = None
    """Place on the curve: patterns, reading steps, age (0 newest, 1 oldest), bits"""
    memories: int
    seeds: int = 1

    def as_json(self) -> str:
        """Return one line of JSON; numbers that are not finite are null."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        return json.dumps(finite, allow_nan=False)


NORMAL = 1.96

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 %, of 1 to 10 degrees of freedom"""


def average_over_memories(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and half the interval's width by the normal law: NaN for one value alone."""
    return statistics.fmean(values), NORMAL * _standard_error(values)


def average_over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and half the interval's width by Student's t, since seeds are few."""
    return statistics.fmean(values), student_quantile(len(values) - 1) * _standard_error(values)


def student_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile; above 10 degrees of freedom by Cornish and Fisher's series, right to three digits."""
    if freedom < 1:
        return math.nan
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class Method:
    """Method of a row's answers, and the bytes it takes."""

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
    """Return the row of the `chosen` ones of the answers to the probe's cues (memories, cues, values)."""
    value, interval = average_over_memories(scores(bench, probe.patterns, answers)[:, chosen].mean(1).tolist())
    right, right_interval = average_over_memories(hits(bench, probe.patterns, answers)[:, chosen].mean(1).tolist())
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
    """Return the metric of each answer (memories, m); the first m of the patterns (memories, n, values) are right."""
    data = bench.recipe.data
    truth = patterns[:, : answers.shape[1]]
    return SCORES[data.metric](*(select_judged_values(bench.model, data, x) for x in (answers, truth)))


def hits(bench: Bench, patterns: Tensor, answers: Tensor) -> Tensor:
    """Return 1 where the stored pattern nearest to an answer is the right one, else 0 (memories, m)."""
    found = find_nearest(*(select_judged_values(bench.model, bench.recipe.data, x) for x in (answers, patterns)))
    return (found == torch.arange(answers.shape[1])).float()


def measure_auroc(bench: Bench, fast: Tensors, probe: Probe) -> float:
    """Return the AUROC of ΔE between cues of stored and of unseen patterns."""
    own, other = (familiarity(bench.model, fast, cues) for cues in (probe.cues, probe.unseen))
    return auroc(-own, -other)
