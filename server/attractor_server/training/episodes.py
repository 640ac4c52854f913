"""Episodes: how many patterns are written, in which chunks, and which of them are read."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.writer import write
from attractor_server.training.recipe import EpisodesTable


def draw_shape(table: EpisodesTable, generator: Generator) -> tuple[int, Sequence[int]]:
    """Patterns in each memory, and the sizes of the chunks they are written in, which add up to it."""

    def uniform() -> float:
        return torch.rand((), generator=generator).item()

    count = round(table.patterns_least * (table.patterns_limit / table.patterns_least) ** uniform())
    way = uniform()
    if way < table.singly_share:
        chunk = 1
    elif way < table.singly_share + table.whole_share:
        chunk = count
    else:
        chunk = 2 ** int(uniform() * (math.log2(count) + 1))
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
        present = torch.ones(len(patterns), size, dtype=torch.bool, device=patterns.device)
        stored = torch.full((len(patterns),), done, device=patterns.device)
        fast = write(network, parameters, fast, chunk, present=present, stored=stored)
        done += size
    return fast
