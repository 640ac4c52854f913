"""Objective of meta-training: the error of recalled patterns, and losses that make ΔE tell stored from unseen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, softplus

from attractor_server.energy.encoding import logits
from attractor_server.energy.model import Model
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import descend
from attractor_server.energy.transform import Hold
from attractor_server.energy.writer import delta_energy
from attractor_server.training.datasets import Source
from attractor_server.training.distortions import Cues, distort
from attractor_server.training.dual import find_dual
from attractor_server.training.dual.quadratic import Symmetric, delta_energy_dual
from attractor_server.training.episodes import Episode, Plan, draw_shape, pick, repeat, write_chunks
from attractor_server.training.recipe import OptimizerTable, Recipe

SHARPNESS = 8.0
"""Factor that makes logits of the nearness of character codes, and of patterns"""
PAGES = 8
"""Most memories of an episode among which a cue's page is chosen"""


@dataclass(frozen=True)
class Losses:
    """The parts of the objective, scalars."""

    error: Tensor
    """Error of recalled patterns, as a share of the data's variance; for text the cross-entropy in nats"""
    familiarity: Tensor
    """Logistic loss: ΔE of a cue should be lower in the memory that holds its pattern than in one that does not"""
    early: Tensor | None = None
    """The error after each reading step but the last, the mean over them"""
    choice: Tensor | None = None
    """Cross-entropy in nats: of several memories, as pages of one, that which holds a cue's pattern has the least ΔE"""
    identity: Tensor | None = None
    """Cross-entropy in nats: of the memory's patterns, the one that was asked for is the nearest to what is read"""

    def total(self, table: OptimizerTable) -> Tensor:
        """Return the sum of the losses, weighted as the recipe says."""
        total = self.error + table.familiarity_weight * self.familiarity
        weighed = (
            (table.early_weight, self.early),
            (table.choice_weight, self.choice),
            (table.identity_weight, self.identity),
        )
        for weight, part in weighed:
            total = total if part is None else total + weight * part
        return total


@dataclass(frozen=True)
class Objective:
    """Objective of a phase of training: it draws episodes, and measures losses in them."""

    draw: Callable[[Source, Recipe, Generator, Generator], Episode]
    """Draw an episode by two generators: of the values, and of the plan"""
    measure: Callable[[Model, Recipe, Episode], Losses]
    """Compute differentiable losses through both loops; two episodes of one plan take the same operations"""

    def __call__(self, model: Model, source: Source, recipe: Recipe, generator: Generator) -> Losses:
        """Return the losses of one random episode."""
        return self.measure(model, recipe, self.draw(source, recipe, generator, generator))


def _draw(source: Source, recipe: Recipe, generator: Generator, plans: Generator) -> Episode:
    """Draw an episode; N is log-uniform, so that the end of a short episode is also the middle of a long one."""
    count, chunks = draw_shape(recipe.episodes, plans)
    patterns = source.sample(recipe.episodes.memories, count, generator)
    patterns = repeat(patterns, recipe.episodes.repeated, generator)
    asked = pick(patterns, recipe.episodes.cues, generator)
    cues = distort(asked, source.layout, recipe.cues, generator, drifts=source.drifts)
    return Episode(patterns, asked, cues, Plan(chunks=tuple(chunks), held=bool(cues.known.any())))


def _measure(model: Model, recipe: Recipe, episode: Episode) -> Losses:
    weights = recipe.optimizer
    # Write and read.
    network, fast = _write(model, model.encode(episode.patterns), episode.plan.chunks)
    x, truth = model.encode(episode.cues.values), episode.targets
    *before, last = _read_steps(model, network, fast, x, _cues_to_hold(episode))
    # Errors of the last step and of those before it.
    error = recall_error(model, last, truth)
    weighed = before if weights.early_weight else []
    early = torch.stack([recall_error(model, one, truth) for one in weighed]).mean() if weighed else None
    # ΔE of the cues in their own memory, and in others.
    pages = min(PAGES if weights.choice_weight else 2, len(x))
    deltas = torch.stack([_delta_energy(model, network, _roll(fast, page), x) for page in range(pages)], -1)
    own, strange = deltas[..., 0], deltas[..., -1]
    margins = own.flatten()[:, None] - strange.flatten()  # every pair: ΔE must be comparable between memories
    choice = -(-deltas).log_softmax(-1)[..., 0].mean() if weights.choice_weight else None
    identity = identity_error(model, last, truth, episode.patterns) if weights.identity_weight else None
    return Losses(error, softplus(margins).mean(), early, choice, identity)


episode_losses = Objective(_draw, _measure)
"""Losses of memories that are written and read."""


def _roll(fast: Tensors, places: int) -> Tensors:
    """Return the fast weights of each memory in the place of another, `places` on."""
    return {name: value.roll(places, 0) for name, value in fast.items()}


def _draw_alone(source: Source, recipe: Recipe, generator: Generator, _: Generator) -> Episode:
    patterns = source.sample(recipe.episodes.memories, recipe.episodes.cues, generator)
    cues = distort(patterns, source.layout, recipe.cues, generator, drifts=source.drifts)
    return Episode(patterns, patterns, cues, Plan(held=bool(cues.known.any())))


def _measure_alone(model: Model, recipe: Recipe, episode: Episode) -> Losses:
    fast = model.parameters.memories(len(episode.targets))
    found = read_cues(model, model.network, fast, model.encode(episode.cues.values), _cues_to_hold(episode))
    return Losses(recall_error(model, found, episode.targets), torch.zeros((), device=model.device))


memoryless_losses = Objective(_draw_alone, _measure_alone)
"""Losses of the control: a network that is never written to, and so learns to do without."""


def read_cues(model: Model, network: EnergyNetwork, fast: Tensors, x: Tensor, held: Cues | None) -> Tensor:
    """Return what is recalled from x (memories, cues, d), in network units, with the known entries held."""
    return _read_steps(model, network, fast, x, held)[-1]


def _cues_to_hold(episode: Episode) -> Cues | None:
    return episode.cues if episode.plan.held else None


def _read_steps(model: Model, network: EnergyNetwork, fast: Tensors, x: Tensor, held: Cues | None) -> Sequence[Tensor]:
    """Return the iterates of all reading steps."""
    hold = None if held is None else _make_hold(model, held)
    return descend(network, model.parameters, fast, x, hold=hold, steps=model.steps)[1:]


def _make_hold(model: Model, held: Cues) -> Hold:
    """Return the projection that holds known entries; cues without any skip it, since it is most of a step.

    On a GPU none skips it: finding out which they are would wait for the GPU.
    """
    told = held.known.any(-1)
    if told.is_cuda or bool(told.all()):
        return model.hold(held.values, held.known)
    hold = model.hold(held.values[told], held.known[told])
    return lambda x: x.index_put((told,), hold(x[told]))


def recall_error(model: Model, x: Tensor, truth: Tensor) -> Tensor:
    """Return the error of x, in network units, against patterns in users' units, the mean over fields."""
    encoding = model.encoding
    found, wanted = model.transform.decode(x), encoding.encode(truth)
    widths = [model.parameters.codes[f.name].shape[1] if f.has_codes else 1 for f in model.layout.fields]
    sizes = [field.size * width for field, width in zip(model.layout.fields, widths, strict=True)]
    errors = []
    parts = zip(model.layout.spans, found.split(sizes, -1), wanted.split(sizes, -1), strict=True)
    for (field, span), one, other in parts:
        if field.has_codes:
            scores = SHARPNESS * logits(one, model.parameters.codes[field.name])
            errors.append(cross_entropy(scores.flatten(0, -2), truth[..., span].long().flatten()))
        else:
            spread = (other - other.mean((0, 1))).square().mean()
            errors.append((one - other).square().mean() / spread.clamp(min=1e-9))
    return torch.stack(errors).mean()


def identity_error(model: Model, x: Tensor, truth: Tensor, patterns: Tensor) -> Tensor:
    """Return the cross-entropy of finding truth among patterns (memories, n, values) by distance from x.

    x is in network units; squared distances are relative to the mean one from the right pattern.
    """
    found = model.transform.decode(x)
    right, others = (model.encoding.encode(values) for values in (truth, patterns))
    own = (found - right).square().sum(-1)
    cross = others.square().sum(-1)[:, None] - 2 * found @ others.mT + found.square().sum(-1, keepdim=True)
    sharpness = SHARPNESS / own.detach().mean().clamp(min=1e-9)
    return (sharpness * own + (-sharpness * cross).logsumexp(-1)).mean()


def _write(model: Model, patterns: Tensor, chunks: Sequence[int]) -> tuple[EnergyNetwork, Tensors]:
    """Return the network that reads, and the fast weights after writing."""
    network, parameters = model.network, model.parameters
    if (dual := find_dual(network, parameters)) is not None:
        return dual.write(network, parameters, patterns, chunks)
    return network, write_chunks(network, parameters, patterns, chunks)


def _delta_energy(model: Model, network: EnergyNetwork, fast: Tensors, x: Tensor) -> Tensor:
    if isinstance(network, Symmetric):
        return delta_energy_dual(model.parameters, fast, x)
    return delta_energy(network, model.parameters, fast, x)
