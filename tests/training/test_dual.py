"""The dual form of the writing loop, held to the loop that serves."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.reader import descend
from attractor_server.energy.writer import delta_energy
from attractor_server.training.dual import bilinear
from attractor_server.training.dual.quadratic import Symmetric, delta_energy_dual, write_dual
from attractor_server.training.episodes import write_chunks

NETWORK = Quadratic(inputs=10, features=7)
BILINEARS = [
    Bilinear(inputs=10, keys=5, values=7),
    Bilinear(inputs=10, keys=5, values=7, entrywise=True),
    Bilinear(inputs=10, keys=5, values=7, waves=3, bounded=True),
]
CHUNKS = [[1], [1] * 6, [6], [4, 2], [1, 5], [2, 1, 3]]


def parameters(network: EnergyNetwork = NETWORK) -> Parameters:
    """Random ones in double precision, with a β that matters and W₀ not symmetric."""
    generator = Generator().manual_seed(0)
    slow, initial = network.shapes
    parts = {"slow": slow, "initial": initial}
    learned = {
        f"{part}.{name}": 0.4 * torch.randn(shape, generator=generator)
        for part, shapes in parts.items()
        for name, shape in shapes.items()
    }
    loops = {"reader": initial_reader(3), "writer": initial_writer(3, initial)}
    for part, tensors in loops.items():
        for name, value in tensors.items():
            learned[f"{part}.{name}"] = value + 0.3 * torch.randn(value.shape, generator=generator)
    learned["writer.log_beta"] = torch.tensor([-1.0, -2.0, -3.0])
    return Parameters.of({name: value.double().requires_grad_() for name, value in learned.items()})


def patterns(count: int) -> Tensor:
    return torch.randn(3, count, 10, generator=Generator().manual_seed(1), dtype=torch.float64)


def symmetric(fast: Tensors) -> Tensors:
    return {"W": 0.5 * (fast["W"] + fast["W"].mT), "b": fast["b"]}


@pytest.mark.parametrize("chunks", CHUNKS)
def test_it_writes_the_fast_weights_that_the_served_loop_writes(chunks: Sequence[int]) -> None:
    written = write_dual(parameters(), patterns(sum(chunks)), chunks)
    expected = symmetric(write_chunks(NETWORK, parameters(), patterns(sum(chunks)), chunks))
    torch.testing.assert_close(written, expected)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_its_meta_gradients_are_those_through_the_served_loops(chunks: Sequence[int]) -> None:
    x = patterns(sum(chunks))
    gradients = []
    for network, dual in ((NETWORK, False), (Symmetric(**NETWORK.config), True)):
        learned = parameters()
        fast = write_dual(learned, x, chunks) if dual else write_chunks(network, learned, x, chunks)
        read = descend(network, learned, fast, x + 0.3, steps=3)[-1]
        leaves = learned.flat()
        found = torch.autograd.grad((read - x).square().mean(), list(leaves.values()), allow_unused=True)
        gradients.append(dict(zip(leaves, found, strict=True)))
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected)


def test_its_delta_energy_is_the_served_one() -> None:
    x, learned = patterns(4), parameters()
    fast = write_chunks(NETWORK, learned, x, [4])
    expected = delta_energy(NETWORK, learned, fast, x + 0.2)
    torch.testing.assert_close(delta_energy_dual(learned, symmetric(fast), x + 0.2), expected)


def test_reading_with_symmetric_weights_needs_no_transpose() -> None:
    x, learned = patterns(4), parameters()
    fast = symmetric(write_chunks(NETWORK, learned, x, [4]))
    expected = NETWORK.input_gradient(learned.slow, fast, x)
    torch.testing.assert_close(Symmetric(**NETWORK.config).input_gradient(learned.slow, fast, x), expected)


@pytest.mark.parametrize("network", BILINEARS)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_the_bilinear_form_writes_the_served_fast_weights(network: Bilinear, chunks: Sequence[int]) -> None:
    x, learned = patterns(sum(chunks)), parameters(network)
    torch.testing.assert_close(
        bilinear.write_dual(network, learned, x, chunks), write_chunks(network, learned, x, chunks)
    )


@pytest.mark.parametrize("network", BILINEARS)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_the_bilinear_form_has_the_meta_gradients_of_the_served_loops(network: Bilinear, chunks: Sequence[int]) -> None:
    x = patterns(sum(chunks))
    gradients = []
    for writing in (partial(bilinear.write_dual, network), partial(write_chunks, network)):
        learned = parameters(network)
        read = descend(network, learned, writing(learned, x, chunks), x + 0.3, steps=3)[-1]
        leaves = learned.flat()
        found = torch.autograd.grad((read - x).square().mean(), list(leaves.values()), allow_unused=True)
        gradients.append(dict(zip(leaves, found, strict=True)))
    torch.testing.assert_close(gradients[0], gradients[1])
