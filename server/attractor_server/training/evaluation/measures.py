"""Rows of a model's own memory: recall, erasing, repeated stores, transfer, and curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from attractor_server.energy.frame import weights_of
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.training.adapt import adapt_model
from attractor_server.training.datasets import load_dataset
from attractor_server.training.eraser import erase_patterns
from attractor_server.training.evaluation.bench import Bench, Probe
from attractor_server.training.evaluation.kept import posterior_rows
from attractor_server.training.evaluation.linear import tune_gaussian, tune_ridge
from attractor_server.training.evaluation.rivals import rival_row
from attractor_server.training.evaluation.scores import Method, Row, measure_auroc, row_of
from attractor_server.training.validation import recall, write_memories

BATCH, CHUNKS, SINGLY = "memory, one batch", "memory, chunks of 8", "memory, one at a time"

CONTROL = "trained without writes"


def memory_rows(bench: Bench, *, control: Model | None = None) -> Iterator[Row]:
    """Yield for each setting the memory written in three ways, with its posterior, unwritten, the control, the cue."""
    for table, count in bench.settings():
        yield from _rows(bench, bench.probe(table, count), control)


def ways(count: int) -> Sequence[tuple[str, int]]:
    """Return the ways to write so many patterns: names with sizes of chunks."""
    return (BATCH, count), (CHUNKS, 8), (SINGLY, 1)


def _rows(bench: Bench, probe: Probe, control: Model | None) -> Iterator[Row]:
    model, row = bench.model, partial(row_of, bench, probe)
    for name, chunk in ways(probe.count):
        fast = write_memories(model, probe.patterns, chunk, framed=True)
        method = Method(name=name, family="memory", bytes=model.page_bytes)
        yield row(method, recall(model, fast, probe.cues), auroc=measure_auroc(bench, fast, probe))
    yield from posterior_rows(bench, probe)
    empty = model.parameters.memories(len(probe.patterns))
    yield row(Method(name="no write", family="control", bytes=0), recall(model, empty, probe.cues))
    if control is not None:
        untouched = control.parameters.memories(len(probe.patterns))
        yield row(
            Method(name=CONTROL, family="control", bytes=0),
            recall(control, untouched, probe.cues),
        )
    yield row(Method(name="cue", family="control", bytes=0), probe.filled_cues)


STORED, ERASED = 32, 8
"""Limits; a quarter of the stored patterns is erased"""


def erase_rows(bench: Bench) -> Iterator[Row]:
    """Yield rows before and after erasing patterns one by one, beside patterns that were never stored.

    There are none where the model cannot erase.
    """
    model, count = bench.model, min(STORED, bench.recipe.capacity)
    gone = min(ERASED, count // 4)
    if not model.erases or not gone:
        return
    probe = bench.probe(bench.recipe.cues[0], count + gone)
    dropped, kept, unseen = slice(gone), slice(gone, count), slice(count, None)
    before = write_memories(model, probe.patterns[:, :count], count, framed=True)
    with torch.no_grad():
        after = erase_patterns(model, before, probe.patterns[:, dropped], stored=count)
    parts = {
        "kept, before": (before, kept),
        "kept, after": (after, kept),
        "erased, before": (before, dropped),
        "erased, after": (after, dropped),
        "never stored, after": (after, unseen),
        "erased, in a memory of the kept alone": (
            write_memories(model, probe.patterns[:, kept], count, framed=True),
            dropped,
        ),
    }
    for name, (fast, chosen) in parts.items():
        method = Method(name=name, family="memory", bytes=model.page_bytes)
        row = row_of(bench, probe, method, recall(model, fast, probe.cues), table="erase", chosen=chosen)
        yield replace(row, count=count)


TIMES = (1, 2, 4, 8)


def repeat_rows(bench: Bench, times: Sequence[int] = TIMES) -> Iterator[Row]:
    """Yield rows of memories at rated capacity with fewer and fewer different patterns: all once, then all again."""
    model, capacity = bench.model, bench.recipe.capacity
    for often in (often for often in times if capacity % often == 0):
        probe = bench.probe(bench.recipe.cues[0], capacity // often)
        patterns = probe.patterns.repeat(1, often, 1)
        for name, chunk in ways(capacity):
            method = Method(name=f"{often} × each, {name}", family="memory", bytes=model.page_bytes)
            answers = recall(model, write_memories(model, patterns, chunk, framed=True), probe.cues)
            yield replace(row_of(bench, probe, method, answers, table="repeats"), count=capacity)


OTHERS = {"sentences": ("sentences-mpnet", "sentences-lsa")}
"""Data sets that stand for other sources, by data set"""

COUNTS = 16, 32, 64

FEW = 4
"""Cues of each memory for the conditional Gaussian"""

SAMPLES = 1 << 20


def transfer_rows(bench: Bench) -> Iterator[Row]:
    """Yield memory, cue and linear guesses for the first kind of cue, for each other source of data."""
    for name in OTHERS.get(bench.recipe.data.name, ()):
        yield from (
            replace(row, table="transfer", cue=f"{row.cue} of {name}") for row in _transfer_rows(_other(bench, name))
        )


def _transfer_rows(other: Bench) -> Iterator[Row]:
    yield from memory_rows(other)
    (cue,) = other.recipe.cues
    ridge, gaussian = tune_ridge(other, cue), tune_gaussian(other, cue)
    for count in other.counts:
        probe = other.probe(cue, count)
        yield rival_row(other, probe, ridge)
        yield rival_row(other, probe.take(FEW), gaussian)


def _other(bench: Bench, name: str) -> Bench:
    """Return the bench of the adapted model, fitted to the training split, evaluated on the test split."""
    training, held_out, tested = (load_dataset(name, split) for split in ("train", "validation", "test"))
    data = bench.recipe.data.model_copy(update={"name": name})
    recipe = bench.recipe.model_copy(update={"data": data, "cues": bench.recipe.cues[:1]})
    model = adapt_model(bench.model, training.pool(SAMPLES))
    return replace(
        bench, model=model, recipe=recipe, training=training, held_out=held_out, tested=tested, counts=COUNTS
    )


LOADS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Shares of the rated capacity"""

STEPS = range(1, 13)

AGES = 8


def curve_rows(bench: Bench) -> Iterator[Row]:
    """Yield the points of all four curves."""
    yield from pattern_rows(bench)
    yield from step_rows(bench)
    yield from age_rows(bench)
    yield from precision_rows(bench)


def pattern_rows(bench: Bench) -> Iterator[Row]:
    """Yield rows of memories from a quarter of the rated capacity to three times that, as far as the data go."""
    capacity = bench.recipe.capacity
    for count in sorted({max(1, round(load * capacity)) for load in LOADS}):
        if bench.tested.sample(1, 2 * count, torch.Generator().manual_seed(0)).shape[1] < 2 * count:
            return
        probe = bench.probe(bench.recipe.cues[0], count)
        yield replace(_row(bench, probe, _write_singly(bench, probe)), table="patterns", at=float(count))


def step_rows(bench: Bench) -> Iterator[Row]:
    """Yield rows of memories at rated capacity, read in 1 to 12 steps whatever the number that was trained."""
    probe = bench.probe(bench.recipe.cues[0], bench.recipe.capacity)
    fast = _write_singly(bench, probe)
    for steps in STEPS:
        yield replace(_row(bench, probe, fast, steps=steps), table="steps", at=float(steps))


def age_rows(bench: Bench) -> Iterator[Row]:
    """Yield rows by age in memories of twice the rated capacity: the newest eighth at 0, the oldest at 1."""
    probe = bench.probe(bench.recipe.cues[0], 2 * bench.recipe.capacity)
    answers = recall(bench.model, _write_singly(bench, probe), probe.cues)
    ages = min(AGES, probe.count)
    for number in range(ages):
        chosen = slice(number * probe.count // ages, (number + 1) * probe.count // ages)
        age = 1 - number / max(1, ages - 1)
        yield row_of(bench, probe, _method(bench), answers, table="age", at=age, chosen=chosen)


def precision_rows(bench: Bench) -> Iterator[Row]:
    """Yield rows of memories at rated capacity whose fast weights have 32, 16 or 8 bits each."""
    probe = bench.probe(bench.recipe.cues[0], bench.recipe.capacity)
    fast = _write_singly(bench, probe)
    for bits, rounded in ROUNDINGS.items():
        weights = {name: rounded(tensor) for name, tensor in weights_of(fast).items()}
        row = _row(bench, probe, {**fast, **weights})
        scales = 4 * len(weights) if bits == 8 else 0
        frames = bench.model.page_bytes - bench.model.weights_bytes
        size = bench.model.weights_bytes * bits // 32 + scales + frames
        yield replace(row, table="precision", at=float(bits), bytes=size)


def int8(fast: Tensor) -> Tensor:
    """Round fast weights (memories, *shape) to whole numbers from −127 to 127 times a scale for each memory."""
    scale = fast.abs().amax(tuple(range(1, fast.dim())), keepdim=True).clamp_min(torch.finfo(fast.dtype).tiny) / 127
    return (fast / scale).round() * scale


ROUNDINGS: Mapping[int, Callable[[Tensor], Tensor]] = {32: lambda x: x, 16: lambda x: x.bfloat16().float(), 8: int8}
"""Rounding by bits of a weight: float32, bfloat16, int8"""


def _write_singly(bench: Bench, probe: Probe) -> Tensors:
    return write_memories(bench.model, probe.patterns, 1, framed=True)


def _row(bench: Bench, probe: Probe, fast: Tensors, *, steps: int = 0) -> Row:
    return row_of(bench, probe, _method(bench), recall(bench.model, fast, probe.cues, steps=steps))


def _method(bench: Bench) -> Method:
    return Method(name=SINGLY, family="memory", bytes=bench.model.page_bytes)
