"""Figures on held-out patterns, the same episodes each time."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy
from attractor_server.training.baselines import Ridge, look_up
from attractor_server.training.distortions import add_noise
from attractor_server.training.episodes import Dataset, chunked, occluded, write_chunks
from attractor_server.training.evaluation import auroc, identified, mean_squared_error
from attractor_server.training.start import Blueprint

Distortion: TypeAlias = Literal["block", "noise"]

MEMORIES = 16


def distorted(patterns: Tensor, distortion: Distortion, generator: Generator) -> Tensor:
    """A cue for each pattern (…, d): with a block of background over it, not told, or with noise."""
    return occluded(patterns, generator).x if distortion == "block" else add_noise(patterns, generator)


def fit_ridge(patterns: Tensor, *, distortion: Distortion = "block", rounds: int = 3, seed: int = 0) -> Ridge:
    """The memoryless denoiser, fitted to training patterns (n, d), each distorted `rounds` times."""
    generator = Generator().manual_seed(seed)
    cues = torch.cat([distorted(patterns, distortion, generator) for _ in range(rounds)])
    return Ridge.fit(cues, patterns.repeat(rounds, 1))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is measured: memories of so many patterns, written in chunks, read by cues of one kind."""

    count: int
    chunk: int = 1
    distortion: Distortion = "block"
    memories: int = MEMORIES


def validate(
    blueprint: Blueprint, parameters: Parameters, data: Dataset, task: Task, *, ridge: Ridge | None = None
) -> dict[str, float]:
    """Errors, shares identified and the AUROC of ΔE, beside those of its rivals."""
    generator = Generator().manual_seed(0)
    # Of one draw, so that what is unseen by a memory shows none of what is stored in it, in another font say.
    patterns, unseen = data.sample(task.memories, 2 * task.count, generator).chunk(2, 1)
    cues, unseen_cues = (distorted(x, task.distortion, generator) for x in (patterns, unseen))
    network, transform = blueprint.network, blueprint.transform
    x, unseen_x = transform.encode(cues), transform.encode(unseen_cues)
    with torch.no_grad():
        chunks = chunked(task.count, task.chunk)
        fast = write_chunks(network, parameters, transform.encode(patterns), chunks)
        reading, unwritten = (read(network, parameters, weights, x) for weights in (fast, parameters.memories(len(x))))
        unseen_delta = delta_energy(network, parameters, fast, unseen_x)
    # As users get them: an image has no values beyond dark and bright.
    recalled, without = (transform.decode(one.pattern).clamp(-1, 1) for one in (reading, unwritten))
    figures = {
        "mse_cue": mean_squared_error(cues, patterns),
        "mse_recalled": mean_squared_error(recalled, patterns),
        "mse_no_write": mean_squared_error(without, patterns),
        "mse_nearest": mean_squared_error(look_up(cues, patterns), patterns),
        "id_cue": identified(cues, patterns),
        "id_recalled": identified(recalled, patterns),
        "auroc": auroc(-reading.delta_energy, -unseen_delta),
    }
    if ridge is not None:
        figures["mse_ridge"] = mean_squared_error(ridge.restore(cues), patterns)
    return figures
