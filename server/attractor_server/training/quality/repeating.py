"""Rows of patterns that are stored again and again: whether a memory bears it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from attractor_server.training.quality.bench import Bench
from attractor_server.training.quality.figures import Method, row_of
from attractor_server.training.quality.memory import ways
from attractor_server.training.quality.rows import Row
from attractor_server.training.validation import answered, written

TIMES = (1, 2, 4, 8)


def repeat_rows(bench: Bench, times: Sequence[int] = TIMES) -> Iterator[Row]:
    """As many patterns as the model is rated for, fewer and fewer of them different: all of those, then all again."""
    model, capacity = bench.model, bench.recipe.capacity
    for often in (often for often in times if capacity % often == 0):
        probe = bench.probe(bench.recipe.cues[0], capacity // often)
        patterns = probe.patterns.repeat(1, often, 1)
        for name, chunk in ways(capacity):
            method = Method(name=f"{often} × each, {name}", family="memory", bytes=model.page_bytes)
            answers = answered(model, written(model, patterns, chunk), probe.cues)
            yield replace(row_of(bench, probe, method, answers, table="repeats"), count=capacity)
