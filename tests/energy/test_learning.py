"""Meta-training through both loops makes memories of the networks of several layers (claims 10, 11, 15, 16, 19)."""

from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor

from attractor_server.energy.networks import TrainableNetwork
from attractor_server.energy.networks.convolutional import Convolutional
from attractor_server.energy.networks.mlp import MLP
from attractor_server.energy.networks.protocol import Start
from attractor_server.energy.networks.recurrent import Recurrent
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.reader import descend
from attractor_server.energy.writer import write

D, PATTERNS = 12, 3
READING_STEPS, WRITING_STEPS, RATE = 3, 2, 0.02
STEPS = {"mlp": 120, "convolutional": 25, "recurrent": 25}
"""The perceptron has everything to learn, and its steps are cheap"""
LEARNERS: dict[str, TrainableNetwork] = {
    "mlp of tanh": MLP(inputs=D, widths=(24, 24), activation="tanh"),
    "mlp of softplus": MLP(inputs=D, widths=(24,)),
    "convolutional": Convolutional(inputs=D, image=(1, 4, 3), channels=4, blocks=1, keys=D, values=D),
    "convolutional with a written block": Convolutional(
        inputs=D, image=(1, 4, 3), channels=4, blocks=1, keys=D, values=D, writable=("block1", "head")
    ),
    "recurrent": Recurrent(inputs=D, steps=4, width=3, hidden=4, keys=D, values=D),
    "recurrent with written gates": Recurrent(
        inputs=D, steps=4, width=3, hidden=4, keys=D, values=D, writable=("forward", "backward", "head")
    ),
}


@dataclass(frozen=True)
class Errors:
    """Mean squared errors of random signs, of which the cue lacks four in ten."""

    read: Tensor
    cue: Tensor


def started(network: TrainableNetwork, generator: Generator) -> Parameters:
    start = Start(deviation=torch.ones(D), lift=torch.eye(D), generator=generator)
    weights, (slow, fast) = network.start(start), network.shapes
    return Parameters(
        slow={name: weights[name] for name in slow},
        initial={name: weights[name] for name in fast},
        reader=initial_reader(READING_STEPS),
        writer=initial_writer(WRITING_STEPS, fast),
    )


def measured(
    network: TrainableNetwork, parameters: Parameters, generator: Generator, *, memories: int, written: bool = True
) -> Errors:
    patterns = torch.randint(2, (memories, PATTERNS, D), generator=generator) * 2.0 - 1
    cue = patterns * (torch.rand(patterns.shape, generator=generator) < 0.6)
    fast = parameters.memories(memories)
    if written:
        present, stored = torch.ones(memories, PATTERNS, dtype=torch.bool), torch.zeros(memories, dtype=torch.int64)
        fast = write(network, parameters, fast, patterns, present=present, stored=stored)
    read = descend(network, parameters, fast, cue, steps=READING_STEPS)[-1]
    return Errors((read - patterns).square().mean(), (cue - patterns).square().mean())


def trained(network: TrainableNetwork, generator: Generator) -> Parameters:
    """After a few steps of plain meta-training."""
    leaves = {name: value.clone().requires_grad_() for name, value in started(network, generator).flat().items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=RATE)
    for _ in range(STEPS[network.kind]):
        optimizer.zero_grad()
        measured(network, Parameters.of(leaves), generator, memories=8).read.backward()
        torch.nn.utils.clip_grad_norm_(leaves.values(), 1.0)
        optimizer.step()
    return Parameters.of({name: value.detach() for name, value in leaves.items()})


@pytest.mark.parametrize("network", LEARNERS.values(), ids=LEARNERS.keys())
def test_a_little_training_makes_a_memory_of_it(network: TrainableNetwork) -> None:
    """No denoiser reads random signs any better than the cue has them: what is read better was remembered."""
    start, parameters = started(network, Generator().manual_seed(0)), trained(network, Generator().manual_seed(0))
    with torch.no_grad():
        found = measured(network, parameters, Generator().manual_seed(1), memories=32)
        empty = measured(network, parameters, Generator().manual_seed(1), memories=32, written=False)
        untrained = measured(network, start, Generator().manual_seed(1), memories=32)
    assert found.read < 0.7 * found.cue
    assert found.read < 0.7 * empty.read
    assert found.read < 0.7 * untrained.read
    moved = {name: not torch.equal(value, parameters.flat()[name]) for name, value in start.flat().items()}
    assert [name for name in moved if not moved[name]] == ["writer.rate_stored"], "nothing was stored before"
