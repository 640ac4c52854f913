"""Episodes: how many patterns are written, in which chunks, and which of them are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.writer import write
from attractor_server.training.distortions import Cues
from attractor_server.training.recipe import EpisodesTable


class Plan(NamedTuple):
    """Shape of an episode, apart from its values: two of one plan take the same operations."""

    chunks: tuple[int, ...] = ()
    """Sizes of the chunks, in the order of writing"""
    erasures: int = 0
    """Number of patterns that are erased: the last ones"""
    held: bool = True
    """Whether entries of cues are held"""


@dataclass(frozen=True)
class Episode:
    """Patterns to write and cues to read, all (memories, …, values), in users' units."""

    patterns: Tensor
    targets: Tensor
    """Patterns that the cues are made of"""
    cues: Cues
    plan: Plan

    def clone(self) -> "Episode":
        """Copy all values into new tensors."""
        cues = Cues(self.cues.values.clone(), self.cues.known.clone())
        return replace(self, patterns=self.patterns.clone(), targets=self.targets.clone(), cues=cues)

    def copy_from(self, other: "Episode") -> None:
        """Overwrite the values with those of an episode of the same plan and shapes."""
        self.patterns.copy_(other.patterns)
        self.targets.copy_(other.targets)
        self.cues.values.copy_(other.cues.values)
        self.cues.known.copy_(other.cues.known)


def draw_shape(table: EpisodesTable, generator: Generator) -> tuple[int, Sequence[int]]:
    """Draw the number of patterns in each memory, and the sizes of the chunks, which add up to it."""

    def uniform() -> float:
        return torch.rand((), generator=generator, device=generator.device).item()

    count = round(table.patterns_least * (table.patterns_limit / table.patterns_least) ** uniform())
    count = min(table.patterns_limit, -(-count // table.patterns_multiple) * table.patterns_multiple)
    way = uniform()
    if way < table.singly_share:
        chunk = 1
    elif way < table.singly_share + table.whole_share:
        chunk = count
    else:
        chunk = 2 ** int(uniform() * (math.log2(count) + 1))
    return count, split_into_chunks(count, min(chunk, count))


def split_into_chunks(count: int, size: int) -> Sequence[int]:
    """Return sizes of chunks of `size` that add up to `count`; the last may be smaller."""
    return [size] * (count // size) + ([count % size] if count % size else [])


def repeat(patterns: Tensor, share: float, generator: Generator) -> Tensor:
    """Return patterns (memories, n, d) that repeat the first few, from 1 to n, in a share of the memories.

    Repeats are drawn independently; the number of different patterns is log-uniform.
    """
    if not share:
        return patterns
    memories, count, d = patterns.shape

    def uniform(columns: int) -> Tensor:
        return torch.rand(memories, columns, generator=generator, device=generator.device)

    different = count ** uniform(1)
    repeated = (uniform(count) * different).long()
    places = torch.where(uniform(1) < share, repeated, torch.arange(count, device=patterns.device))
    return patterns.gather(1, places[..., None].expand(-1, -1, d))


def pick(patterns: Tensor, limit: int, generator: Generator) -> Tensor:
    """Return at most `limit` patterns of each memory (memories, n, d), at random."""
    memories, count, d = patterns.shape
    if count <= limit:
        return patterns
    chosen = torch.rand(memories, count, generator=generator, device=generator.device).argsort(1)[:, :limit]
    return patterns.gather(1, chosen[..., None].expand(-1, -1, d))


def write_chunks(network: EnergyNetwork, parameters: Parameters, patterns: Tensor, chunks: Sequence[int]) -> Tensors:
    """Return the fast weights after writing patterns (memories, n, d) in chunks of these sizes, from θ₀ on."""
    fast, done = parameters.memories(len(patterns)), 0
    for size in chunks:
        chunk = patterns[:, done : done + size]
        present = torch.ones(len(patterns), size, dtype=torch.bool, device=patterns.device)
        stored = torch.full((len(patterns),), done, device=patterns.device)
        fast = write(network, parameters, fast, chunk, present=present, stored=stored)
        done += size
    return fast
