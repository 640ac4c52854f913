"""A few seconds of meta-training: enough to make a memory of a small model."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks import TrainableNetwork
from attractor_server.energy.networks.protocol import Start
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.reader import descend
from attractor_server.energy.transform import Transform
from attractor_server.energy.writer import write
from attractor_server.fields import Field, Layout

PATTERNS, MEMORIES, RATE = 3, 8, 0.02
KNOWN, NOISE = 0.6, 0.2
"""Of a cue: the share of its entries that are there, and σ of what is added to these, in network units"""


def untrained(name: str, field: Field, network: TrainableNetwork, *, steps: tuple[int, int] = (4, 2)) -> Model:
    """A model of one field before its training, of K and T `steps`."""
    entries = field.size * (len(field.alphabet) or 1)
    start = Start(deviation=torch.ones(entries), lift=torch.eye(entries), generator=Generator().manual_seed(0))
    weights, (slow, fast) = network.start(start), network.shapes
    parameters = Parameters(
        slow={key: weights[key] for key in slow},
        initial={key: weights[key] for key in fast},
        reader=initial_reader(steps[0]),
        writer=initial_writer(steps[1], fast),
        codes={field.name: torch.eye(len(field.alphabet))} if field.alphabet else {},
    )
    return Model(
        name=name,
        layout=Layout((field,)),
        network=network,
        parameters=parameters,
        transform=_transform(field, entries),
        capacity=PATTERNS,
        record={"made": "for tests"},
    )


def random_values(field: Field, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Random patterns (*shape, size) in users' units: nobody can guess one entry from the others."""
    if field.alphabet:
        return torch.randint(len(field.alphabet), (*shape, field.size), generator=generator).float()
    bits = torch.randint(2, (*shape, field.size), generator=generator).float()
    return bits if field.kind == "image" else bits * 2 - 1


def trained(model: Model, optimizer_steps: int) -> Model:
    """After a few steps of Adam through both loops, on the error of what is read."""
    generator = Generator().manual_seed(1)
    start = model.parameters
    leaves = {name: value.clone().requires_grad_() for name, value in start.flat().items() if "codes" not in name}
    optimizer = torch.optim.Adam(leaves.values(), lr=RATE)
    for _ in range(optimizer_steps):
        optimizer.zero_grad()
        _error(replace(model, parameters=replace(Parameters.of(leaves), codes=start.codes)), generator).backward()
        torch.nn.utils.clip_grad_norm_(leaves.values(), 1.0)
        optimizer.step()
    learned = Parameters.of({name: value.detach() for name, value in leaves.items()})
    return replace(model, parameters=replace(learned, codes=start.codes))


def _error(model: Model, generator: Generator) -> Tensor:
    (field,), parameters = model.layout.fields, model.parameters
    x = model.encode(random_values(field, (MEMORIES, PATTERNS), generator))
    present = torch.ones(MEMORIES, PATTERNS, dtype=torch.bool)
    nothing = torch.zeros(MEMORIES, dtype=torch.int64)
    fast = write(model.network, parameters, parameters.memories(MEMORIES), x, present=present, stored=nothing)
    cue = (x + NOISE * torch.randn(x.shape, generator=generator)) * (torch.rand(x.shape, generator=generator) < KNOWN)
    read = descend(model.network, parameters, fast, cue, steps=model.steps)[-1]
    return (read - x).square().mean()


def _transform(field: Field, entries: int) -> Transform:
    """To network units about 0, in which what is missing stands for no guess at all."""
    scale, shift = {"image": (2.0, -1.0), "text": (2.0, -2 / (len(field.alphabet) or 1))}.get(field.kind, (1.0, 0.0))
    return Transform(scale=torch.full((entries,), scale), shift=torch.full((entries,), shift))
