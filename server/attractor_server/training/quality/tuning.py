"""Rivals at their best: of several settings the one that does best on training episodes."""

from collections.abc import Iterable
from typing import TypeVar

from attractor_server.training.baselines import Rival
from attractor_server.training.evaluation import HIGHER_IS_BETTER
from attractor_server.training.quality.bench import Bench, Probe
from attractor_server.training.quality.figures import Method, row_of, scores
from attractor_server.training.quality.rows import Row

R = TypeVar("R", bound=Rival)


def best(bench: Bench, rehearsal: Probe, rivals: Iterable[R]) -> R:
    """By the metric that the model is judged by."""
    sign = -1 if bench.recipe.data.metric in HIGHER_IS_BETTER else 1

    def error(rival: R) -> float:
        return sign * float(scores(bench, rehearsal.patterns, rehearsal.answers(rival)).mean())

    return min(rivals, key=error)


def rival_row(bench: Bench, probe: Probe, rival: Rival, *, name: str = "") -> Row:
    """The row of a rival's answers to the probe's cues."""
    n, d = probe.patterns.shape[1:]
    method = Method(name=name or rival.name, family="rival", bytes=rival.bytes_per_memory(n, d))
    return row_of(bench, probe, method, probe.answers(rival))
