"""Rivals for text: a store of whole lines, and characters filled in by what training lines are like."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attractor_server.training.baselines.ngram import MISSING, NGram
from attractor_server.training.baselines.slots import squared_distances
from attractor_server.training.quality.bench import Bench, Probe
from attractor_server.training.quality.rows import Row
from attractor_server.training.quality.tuning import rival_row

FEW = 8
"""Cues of each memory that what has no memory is asked"""


@dataclass(frozen=True)
class LineSlots:
    """A store of every line at one byte for each character."""

    characters: int
    name: str = "nearest stored"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """All characters."""
        return n * d

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """The stored line (memories, m, d) that agrees with each cue in most characters, of those that are known."""
        keep = None if known is None else known.repeat_interleave(self.characters, -1)
        chosen = squared_distances(self._spread(cues), self._spread(items), keep).argmin(-1, keepdim=True)
        return items.gather(-2, chosen.expand(*cues.shape))

    def _spread(self, lines: Tensor) -> Tensor:
        return one_hot(lines.long(), self.characters).float().flatten(-2)


@dataclass(frozen=True)
class Filler:
    """The n-gram model as a rival without a memory."""

    model: NGram
    name: str = "n-gram"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """None: it has no memories."""
        return 0

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """The cues (memories, m, d) with their unknown characters filled in."""
        if known is None:
            return cues
        return self.model.fill(torch.where(known, cues, MISSING).flatten(0, 1)).reshape(cues.shape).to(cues.dtype)


def text_rows(bench: Bench) -> Iterator[Row]:
    """The store, and the filler fitted to all training lines, for each setting."""
    (field,) = bench.tested.layout.fields
    filler = Filler(NGram.fit(bench.training.pool(1 << 20).long(), characters=len(field.alphabet)))
    for table, count in bench.settings():
        probe: Probe = bench.probe(table, count)
        yield rival_row(bench, probe, LineSlots(len(field.alphabet)))
        yield rival_row(bench, probe.few(FEW), filler)
