"""Meta-training of the eraser: after erasing, a memory should be like one that never saw the erased patterns."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from attractor_server.energy.eraser import erase, initial_eraser
from attractor_server.energy.frame import weights_of
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.writer import delta_energy
from attractor_server.training.datasets import Source
from attractor_server.training.distortions import Cues, distort
from attractor_server.training.episodes import Episode, Plan, draw_shape
from attractor_server.training.objective import Losses, Objective, read_cues, recall_error
from attractor_server.training.recipe import EraserTable, Recipe
from attractor_server.training.validation import find_frames, write_memories

UPS = (0.02, 0.05, 0.08, 0.12, 0.18, 0.27)
"""Candidates for an eraser's start: distances up the energy"""

REHEARSALS = 2
"""Episodes that decide on the start"""

SLACK = 0.05
"""Error that is added before damage to kept patterns is a ratio: a rise from nothing to next to nothing is harmless"""


def start_eraser(model: Model, source: Source, recipe: Recipe) -> Model:
    """Return the model with an untrained eraser, which starts as far up the energy as does best in a few episodes.

    The scale of the energy differs from model to model, by more than a short phase of training can make up for.
    """
    table = recipe.eraser or EraserTable()

    def start_at(up: float) -> Model:
        eraser = initial_eraser(table.steps, model.parameters.initial, up=up)
        eraser = {name: value.to(model.device) for name, value in eraser.items()}
        return replace(model, parameters=replace(model.parameters, eraser=eraser))

    def loss(candidate: Model) -> float:
        generator = Generator(model.device).manual_seed(recipe.seed)
        losses = [erasing_losses(candidate, source, recipe, generator) for _ in range(REHEARSALS)]
        return sum(float(one.total(recipe.optimizer)) for one in losses)

    with torch.no_grad():
        return min(map(start_at, UPS), key=loss)


def _draw(source: Source, recipe: Recipe, generator: Generator, plans: Generator) -> Episode:
    table = recipe.eraser or EraserTable()
    count, _ = draw_shape(recipe.episodes, plans)
    share = torch.rand((), generator=plans, device=plans.device).item()
    gone = 1 + int(share * min(table.patterns, count))
    patterns = source.sample(max(1, recipe.episodes.memories // 2), count + gone, generator)
    cues = distort(patterns, source.layout, recipe.cues, generator, drifts=source.drifts)
    return Episode(patterns, patterns, cues, Plan(erasures=gone, held=bool(cues.known.any())))


def _measure(model: Model, recipe: Recipe, episode: Episode) -> Losses:
    patterns, cues, gone = episode.patterns, episode.cues, episode.plan.erasures
    count, held = patterns.shape[1] - gone, episode.plan.held
    kept, dropped = patterns[:, :count], patterns[:, count:]
    # The memory before erasing, after it, and one that never saw the erased patterns.
    full, never = write_memories(model, patterns, count + gone), write_memories(model, kept, count)
    fast = erase_patterns(model, full, dropped, stored=count + gone)
    # Recall after erasing, and its targets, without gradients.
    x, whole = model.encode(cues.values), cues if held else None
    found = read_cues(model, model.network, fast, x, whole)
    with torch.no_grad():
        before = recall_error(model, read_cues(model, model.network, full, x, whole)[:, :count], kept)
        wanted = read_cues(model, model.network, never, x[:, count:], _slice_cues(cues, count) if held else None)
        energy = delta_energy(model.network, model.parameters, never, x[:, count:])
    # Damage to kept patterns, and distance of erased patterns from ones that were never stored.
    damage = recall_error(model, found[:, :count], kept) / (before + SLACK)
    strayed = (found[:, count:] - wanted).square().mean() / wanted.var().clamp(min=1e-9)
    delta = delta_energy(model.network, model.parameters, fast, x[:, count:])
    apart = (delta - energy).square().mean() / energy.square().mean().clamp(min=1e-9)
    return Losses(damage + strayed, apart)


erasing_losses = Objective(_draw, _measure)
"""Losses of one random episode by the eraser's parameters alone.

`error` is the error on kept patterns relative to before, plus the distance between the patterns that cues of erased
ones recall here and in the memory that never saw them; `familiarity` is the distance between their ΔE.
"""


def erase_patterns(model: Model, fast: Tensors, patterns: Tensor, *, stored: int) -> Tensors:
    """Return the fast weights after erasing patterns (memories, n, values) one after another from `stored` ones."""
    present = torch.ones(patterns.shape[:2], dtype=torch.bool, device=patterns.device)
    held = torch.full((len(patterns),), stored, device=patterns.device)
    x, weights = model.encode(patterns, find_frames(model, fast)), weights_of(fast)
    return {**fast, **erase(model.network, model.parameters, weights, x, present=present, stored=held)}


def _slice_cues(cues: Cues, start: int) -> Cues:
    return Cues(cues.values[:, start:], cues.known[:, start:])
