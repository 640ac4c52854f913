"""Curves: the figure against patterns, reading steps, age and number format, with the recipe's first kind of cue."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.training.quality.bench import Bench, Probe
from attractor_server.training.quality.figures import Method, row_of
from attractor_server.training.quality.memory import SINGLY
from attractor_server.training.quality.rows import Row
from attractor_server.training.validation import answered, written

LOADS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Of the rated capacity"""
STEPS = range(1, 13)
AGES = 8


def curve_rows(bench: Bench) -> Iterator[Row]:
    """The points of all four."""
    yield from by_patterns(bench)
    yield from by_steps(bench)
    yield from by_age(bench)
    yield from by_precision(bench)


def by_patterns(bench: Bench) -> Iterator[Row]:
    """Memories that hold from a quarter of the rated capacity to three times that, as far as the data go."""
    capacity = bench.recipe.capacity
    for count in sorted({max(1, round(load * capacity)) for load in LOADS}):
        if bench.tested.sample(1, 2 * count, torch.Generator().manual_seed(0)).shape[1] < 2 * count:
            return
        probe = bench.probe(bench.recipe.cues[0], count)
        yield replace(_row(bench, probe, _singly(bench, probe)), table="patterns", at=float(count))


def by_steps(bench: Bench) -> Iterator[Row]:
    """Memories at rated capacity, read in 1 to 12 steps whatever the number that was trained."""
    probe = bench.probe(bench.recipe.cues[0], bench.recipe.capacity)
    fast = _singly(bench, probe)
    for steps in STEPS:
        yield replace(_row(bench, probe, fast, steps=steps), table="steps", at=float(steps))


def by_age(bench: Bench) -> Iterator[Row]:
    """Twice the rated capacity stored one at a time: the newest eighth of the patterns at 0, the oldest at 1."""
    probe = bench.probe(bench.recipe.cues[0], 2 * bench.recipe.capacity)
    answers = answered(bench.model, _singly(bench, probe), probe.cues)
    ages = min(AGES, probe.count)
    for number in range(ages):
        chosen = slice(number * probe.count // ages, (number + 1) * probe.count // ages)
        age = 1 - number / max(1, ages - 1)
        yield row_of(bench, probe, _method(bench), answers, table="age", at=age, chosen=chosen)


def by_precision(bench: Bench) -> Iterator[Row]:
    """Memories at rated capacity whose fast weights are kept in 32, 16 or 8 bits each."""
    probe = bench.probe(bench.recipe.cues[0], bench.recipe.capacity)
    fast = _singly(bench, probe)
    for bits, rounded in ROUNDINGS.items():
        row = _row(bench, probe, {name: rounded(tensor) for name, tensor in fast.items()})
        scales = 4 * len(fast) if bits == 8 else 0
        yield replace(row, table="precision", at=float(bits), bytes=bench.model.page_bytes * bits // 32 + scales)


def int8(fast: Tensor) -> Tensor:
    """Fast weights (memories, *shape) as whole numbers from −127 to 127 times a scale for each memory."""
    scale = fast.abs().amax(tuple(range(1, fast.dim())), keepdim=True).clamp_min(torch.finfo(fast.dtype).tiny) / 127
    return (fast / scale).round() * scale


ROUNDINGS: Mapping[int, Callable[[Tensor], Tensor]] = {32: lambda x: x, 16: lambda x: x.bfloat16().float(), 8: int8}
"""By bits of a weight: float32, bfloat16, int8"""


def _singly(bench: Bench, probe: Probe) -> Tensors:
    return written(bench.model, probe.patterns, 1)


def _row(bench: Bench, probe: Probe, fast: Tensors, *, steps: int = 0) -> Row:
    return row_of(bench, probe, _method(bench), answered(bench.model, fast, probe.cues, steps=steps))


def _method(bench: Bench) -> Method:
    return Method(name=SINGLY, family="memory", bytes=bench.model.page_bytes)
