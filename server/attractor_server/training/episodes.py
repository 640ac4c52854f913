"""Episodes: patterns to write, the chunks they are written in, and cues to read them by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.writer import write
from attractor_server.training.distortions import BACKGROUND, add_noise, blocks, occlude
from attractor_server.training.recipe import EpisodesTable

SIDE = (28, 28)


@dataclass(frozen=True)
class Dataset:
    """Patterns (n, d) in network units, and for each the number of what it shows, ascending."""

    patterns: Tensor
    classes: Tensor

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        """Patterns (memories, count, d); those of one memory show different things."""
        size = int(self.classes.max()) + 1
        members = torch.bincount(self.classes, minlength=size)
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
    noisy = add_noise(patterns, generator)
    x = torch.where(kind < table.block_share, torch.where(covered, BACKGROUND, patterns), noisy)
    return Cues(x, (kind < table.block_share * table.told_share) & ~covered)


def occluded(patterns: Tensor, generator: Generator) -> Cues:
    """The cues of the main job: a block over each, not told."""
    return Cues(occlude(patterns, SIDE, generator), torch.zeros_like(patterns, dtype=torch.bool))


def draw_shape(table: EpisodesTable, generator: Generator) -> tuple[int, Sequence[int]]:
    """Patterns in each memory, and the sizes of the chunks they are written in, which add up to it."""

    def uniform() -> float:
        return torch.rand((), generator=generator).item()

    count = round(table.patterns_least * (table.patterns_limit / table.patterns_least) ** uniform())
    chunk = 1 if uniform() < table.singly_share else 2 ** int(uniform() * (math.log2(count) + 1))
    return count, chunked(count, min(chunk, count))


def chunked(count: int, size: int) -> Sequence[int]:
    """Sizes of chunks of `size` that add up to `count`; the last may be smaller."""
    return [size] * (count // size) + ([count % size] if count % size else [])


def pick(patterns: Tensor, limit: int, generator: Generator) -> Tensor:
    """At most `limit` patterns of each memory (memories, n, d), at random."""
    memories, count, d = patterns.shape
    if count <= limit:
        return patterns
    chosen = torch.rand(memories, count, generator=generator).argsort(1)[:, :limit]
    return patterns.gather(1, chosen[..., None].expand(-1, -1, d))


def write_chunks(network: EnergyNetwork, parameters: Parameters, patterns: Tensor, chunks: Sequence[int]) -> Tensors:
    """The fast weights after writing patterns (memories, n, d) in chunks of these sizes, from θ₀ on."""
    fast, done = parameters.memories(len(patterns)), 0
    for size in chunks:
        chunk = patterns[:, done : done + size]
        present = torch.ones(len(patterns), size, dtype=torch.bool)
        stored = torch.full((len(patterns),), done)
        fast = write(network, parameters, fast, chunk, present=present, stored=stored)
        done += size
    return fast
