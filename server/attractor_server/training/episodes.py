"""Episodes: patterns to write, the chunks they are written in, and cues to read them by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attractor_server.training.distortions import add_noise, blocks, occlude
from attractor_server.training.recipe import EpisodesTable

SIDE = (28, 28)


@dataclass(frozen=True)
class Dataset:
    """Patterns (n, d) in network units, and for each the number of what it shows."""

    patterns: Tensor
    classes: Tensor

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Patterns (memories, count, d); those of one memory show different things."""
        size = int(self.classes.max()) + 1
        members = torch.bincount(self.classes, minlength=size)  # classes are sorted
        first = members.cumsum(0) - members
        chosen = torch.rand(memories, size, generator=generator).argsort(1)[:, :count]
        within = (torch.rand(chosen.shape, generator=generator) * members[chosen]).long()
        return self.patterns[first[chosen] + within]


@dataclass(frozen=True)
class Cues:
    """Distorted patterns, and which of their entries are known, (memories, patterns, d) both."""

    x: Tensor
    known: Tensor


def distort(patterns: Tensor, table: EpisodesTable, generator: Generator) -> Cues:
    """A cue for each pattern: a block of background over it, told or not, or noise."""
    memories, count, _ = patterns.shape
    kind = torch.rand(memories, count, 1, generator=generator)
    covered = blocks(patterns.shape, SIDE, generator)
    blocked = kind < table.block_share
    noisy = add_noise(patterns, generator)
    x = torch.where(blocked, torch.where(covered, -1.0, patterns), noisy)
    return Cues(x, (kind < table.block_share * table.told_share) & ~covered)


def occluded(patterns: Tensor, generator: Generator) -> Cues:
    """The cues of the main job: a block over each, not told."""
    return Cues(occlude(patterns, SIDE, generator), torch.zeros_like(patterns, dtype=torch.bool))


def draw_shape(table: EpisodesTable, generator: Generator) -> tuple[int, int, Sequence[int]]:
    """Memories, patterns in each, and the sizes of the chunks they are written in."""

    def uniform() -> float:
        return torch.rand((), generator=generator).item()

    count = round(math.exp(uniform() * math.log(table.patterns_limit)))
    chunk = 1 if uniform() < table.singly_share else 2 ** int(uniform() * (math.log2(count) + 1))
    chunk = min(chunk, count)
    chunks = [chunk] * (count // chunk) + ([count % chunk] if count % chunk else [])
    memories = max(4, min(table.memories, 16 * table.memories // (count + 2 * len(chunks))))
    return memories, count, chunks
