"""Rows of erasing: whether what was erased is as if never seen, and what is kept stays."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from attractor_server.training.erasing import erased
from attractor_server.training.quality.bench import Bench
from attractor_server.training.quality.figures import Method, row_of
from attractor_server.training.quality.rows import Row
from attractor_server.training.validation import answered, written

STORED, ERASED = 32, 8
"""At the most; a quarter of what is stored is erased"""


def erase_rows(bench: Bench) -> Iterator[Row]:
    """Before and after erasing patterns one after another, beside patterns that were never stored.

    Nothing where the model cannot erase.
    """
    model, count = bench.model, min(STORED, bench.recipe.capacity)
    gone = min(ERASED, count // 4)
    if not model.erases or not gone:
        return
    probe = bench.probe(bench.recipe.cues[0], count + gone)
    dropped, kept, unseen = slice(gone), slice(gone, count), slice(count, None)
    before = written(model, probe.patterns[:, :count], count)
    with torch.no_grad():
        after = erased(model, before, probe.patterns[:, dropped], stored=count)
    parts = {
        "kept, before": (before, kept),
        "kept, after": (after, kept),
        "erased, before": (before, dropped),
        "erased, after": (after, dropped),
        "never stored, after": (after, unseen),
        "erased, in a memory of the kept alone": (written(model, probe.patterns[:, kept], count), dropped),
    }
    for name, (fast, chosen) in parts.items():
        method = Method(name=name, family="memory", bytes=model.page_bytes)
        row = row_of(bench, probe, method, answered(model, fast, probe.cues), table="erase", chosen=chosen)
        yield replace(row, count=count)
