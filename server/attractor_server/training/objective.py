"""What meta-training minimises: the error of what is read, and what makes ΔE tell stored from unseen."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor
from torch.nn.functional import softplus

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import descend
from attractor_server.energy.writer import delta_energy
from attractor_server.training.dual import Symmetric, delta_energy_dual, write_dual
from attractor_server.training.episodes import Dataset, distort, draw_shape, pick, write_chunks
from attractor_server.training.recipe import EpisodesTable
from attractor_server.training.start import Blueprint


@dataclass(frozen=True)
class Losses:
    """The two parts of the objective, scalars."""

    error: Tensor
    """Mean squared error between the patterns and what their cues lead to"""
    familiarity: Tensor
    """Logistic loss: ΔE of a cue should be lower in the memory that holds its pattern than in one that does not"""


def episode_losses(
    blueprint: Blueprint, parameters: Parameters, data: Dataset, table: EpisodesTable, generator: Generator
) -> Losses:
    """The losses of one random episode, to be differentiated through both loops.

    N is log-uniform, so that the end of a short episode is also the middle of a long one.
    """
    count, chunks = draw_shape(table, generator)
    patterns = data.sample(table.memories, count, generator)
    transform = blueprint.transform
    network, fast = _write(blueprint.network, parameters, transform.encode(patterns), chunks)
    chosen = pick(patterns, table.cues, generator)
    cues = distort(chosen, table, generator)
    x, hold = transform.encode(cues.x), transform.hold(cues.x, cues.known)
    recalled = transform.decode(descend(network, parameters, fast, x, hold=hold, steps=parameters.reading_steps)[-1])
    strangers = {name: value.roll(1, 0) for name, value in fast.items()}
    own = _delta_energy(network, parameters, fast, x)
    strange = _delta_energy(network, parameters, strangers, x)
    margins = own.flatten()[:, None] - strange.flatten()  # every pair: ΔE must be comparable between memories
    return Losses((recalled - chosen).square().mean(), softplus(margins).mean())


def _write(
    network: EnergyNetwork, parameters: Parameters, patterns: Tensor, chunks: Sequence[int]
) -> tuple[EnergyNetwork, Tensors]:
    """Fast weights after writing, with the network that reads them."""
    if isinstance(network, Quadratic):
        return Symmetric(**network.config), write_dual(parameters, patterns, chunks)
    return network, write_chunks(network, parameters, patterns, chunks)


def _delta_energy(network: EnergyNetwork, parameters: Parameters, fast: Tensors, x: Tensor) -> Tensor:
    if isinstance(network, Symmetric):
        return delta_energy_dual(parameters, fast, x)
    return delta_energy(network, parameters, fast, x)
