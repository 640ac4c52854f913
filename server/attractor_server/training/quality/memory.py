"""Rows of the model's own memory, and of what it does without one."""

from collections.abc import Iterator, Sequence
from functools import partial

from attractor_server.energy.model import Model
from attractor_server.training.quality.bench import Bench, Probe
from attractor_server.training.quality.figures import Method, row_of, told_apart
from attractor_server.training.quality.rows import Row
from attractor_server.training.validation import answered, written

BATCH, CHUNKS, SINGLY = "memory, one batch", "memory, chunks of 8", "memory, one at a time"
CONTROL = "trained without writes"


def memory_rows(bench: Bench, *, control: Model | None = None) -> Iterator[Row]:
    """For each setting: the memory written in three ways, the same read unwritten, the control, and the bare cue."""
    for table, count in bench.settings():
        yield from _rows(bench, bench.probe(table, count), control)


def ways(count: int) -> Sequence[tuple[str, int]]:
    """To write so many patterns, by name: the size of the chunks."""
    return (BATCH, count), (CHUNKS, 8), (SINGLY, 1)


def _rows(bench: Bench, probe: Probe, control: Model | None) -> Iterator[Row]:
    model, row = bench.model, partial(row_of, bench, probe)
    for name, chunk in ways(probe.count):
        fast = written(model, probe.patterns, chunk)
        method = Method(name=name, family="memory", bytes=model.page_bytes)
        yield row(method, answered(model, fast, probe.cues), auroc=told_apart(bench, fast, probe))
    empty = model.parameters.memories(len(probe.patterns))
    yield row(Method(name="no write", family="control", bytes=0), answered(model, empty, probe.cues))
    if control is not None:
        untouched = control.parameters.memories(len(probe.patterns))
        yield row(
            Method(name=CONTROL, family="control", bytes=0),
            answered(control, untouched, probe.cues),
        )
    yield row(Method(name="cue", family="control", bytes=0), probe.filled)
