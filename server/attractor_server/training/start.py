"""Where meta-training starts from: the data's principal components, whitened, each a feature of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.transform import Transform, Whitening
from attractor_server.training.recipe import NetworkTable

SPREAD = 0.7
"""Standard deviation of the leading feature before tanh"""


@dataclass(frozen=True)
class Blueprint:
    """What does not change in training: the network, and its input transform from values between -1 and 1."""

    network: EnergyNetwork
    transform: Transform


def initial_parameters(patterns: Tensor, table: NetworkTable) -> tuple[Blueprint, Parameters]:
    """Features along the leading principal components of the patterns (n, values).

    Random features learn a denoiser that never looks at its memory; these do not.
    """
    transform = whitened(patterns, table.components, table.whitening)
    network = Quadratic(inputs=table.components, features=table.features)
    d, h = table.components, table.features
    deviation = transform.encode(patterns).std(0)  # 1 where the whitening is whole
    a = torch.eye(d, h) * SPREAD / (deviation * deviation.max()).sqrt()[:, None]
    slow = {"A": a, "a0": torch.zeros(h), "log_q": torch.zeros(d), "qb": torch.zeros(d)}
    initial = {"W": torch.zeros(h, h), "b": torch.zeros(h)}
    reader, writer = _loops(table, initial)
    return Blueprint(network, transform), Parameters(slow=slow, initial=initial, reader=reader, writer=writer)


def whitened(patterns: Tensor, components: int, power: float) -> Transform:
    """Centred, along the leading components, each divided by its standard deviation to that power."""
    mean = patterns.mean(0)
    _, values, vectors = torch.linalg.svd(patterns - mean, full_matrices=False)
    spread = (values[:components] / len(patterns) ** 0.5) ** power
    whitening = Whitening(components=vectors[:components].T.contiguous(), spread=spread)
    return Transform(scale=torch.ones_like(mean), shift=-mean, whitening=whitening)


def for_users(transform: Transform) -> Transform:
    """The same from values between 0 and 1."""
    return Transform(scale=2 * transform.scale, shift=transform.shift - transform.scale, whitening=transform.whitening)


def blueprint_of(model: Model) -> Blueprint:
    """The blueprint of a trained model, whose users' values lie between 0 and 1."""
    half = model.transform.scale / 2
    transform = Transform(scale=half, shift=model.transform.shift + half, whitening=model.transform.whitening)
    return Blueprint(model.network, transform)


def _loops(table: NetworkTable, initial: Tensors) -> tuple[Tensors, Tensors]:
    """Loops with the values that short runs came to: they would have to wait for them, and the features with them.

    A step that grows with the patterns in a chunk stands for the sum over them, which is what the energy has to gain.
    """
    reader = {**initial_reader(table.reading_steps), "log_step": torch.full((table.reading_steps,), 0.2).log()}
    writer = initial_writer(table.writing_steps, initial)
    for name, value in (("log_rate.W", 0.45), ("log_rate.b", 0.1), ("log_alpha", 0.5), ("log_clip", 6.0)):
        writer[name] = torch.full_like(writer[name], value).log()
    counts = {"rate_count": 1.0, "rate_stored": 0.2, "alpha_count": 0.3}
    return reader, {**writer, **{name: torch.tensor(value) for name, value in counts.items()}}
