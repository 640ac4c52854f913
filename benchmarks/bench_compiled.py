"""How much faster are networks without a closed form after their programs were compiled in the background?

One network of each kind with d = 384 and 16k fast weights a memory, random, float32, one thread, K = 5: queries/s of
the reading loop through the programs, which serve any batch, against the same loop through `torch.func`, as it is until
they are there, and against all of it by `torch.compile` for that one shape of batches, which is compiled for each anew.
"""

import asyncio
import logging
import time

import torch
from _engine_peers import Job
from _report import Result, rates, report
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks import TrainableNetwork
from attractor_server.energy.networks.convolutional import Convolutional
from attractor_server.energy.networks.mlp import MLP
from attractor_server.energy.networks.protocol import Start, Tensors
from attractor_server.energy.networks.recurrent import Recurrent
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.reader import read
from attractor_server.energy.transform import Transform
from attractor_server.engine.background_compile import BackgroundCompiler
from attractor_server.engine.compute.dispatch import read_pages
from attractor_server.fields import Field, Layout

INPUTS, FEATURES, STEPS = 384, 128, 5
NETWORKS: tuple[TrainableNetwork, ...] = (
    MLP(inputs=INPUTS, widths=(FEATURES, FEATURES), writable=("layer2", "head")),
    Convolutional(inputs=INPUTS, image=(1, 16, 24), channels=8, blocks=2, keys=FEATURES, values=FEATURES),
    Recurrent(inputs=INPUTS, steps=16, width=24, hidden=32, keys=FEATURES, values=FEATURES),
)
SHAPES = ((1, 1), (64, 1), (16, 32))
"""Numbers of memories, and of queries to each"""
SECONDS = 1.0


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = []
    for network in NETWORKS:
        model = random_model(network)
        compiling = BackgroundCompiler([model], threads=1)
        asyncio.run(compile_beside(compiling))
        if not compiling.took_s:
            raise RuntimeError(f"{model.name} was not compiled: there would be nothing to measure")
        for memories, queries in SHAPES:
            results += reads(model, memories, queries)
    report(results)


async def compile_beside(compiling: BackgroundCompiler) -> None:
    """Compile as a shard does, but wait for it."""
    now = asyncio.Event()
    now.set()
    await compiling.run(now)


def reads(model: Model, memories: int, queries: int) -> list[Result]:
    """Return queries/s through the programs, and of the peers."""
    network, parameters = model.network, model.parameters
    fast = {name: 0.05 * torch.randn(memories, *value.shape) for name, value in parameters.initial.items()}
    cues = torch.randn(memories, queries, INPUTS)
    name = f"{network.kind}: reads of {memories} memories × {queries}"
    items = memories * queries
    started_s = time.perf_counter()
    whole = compile_as_one(model, fast, cues)
    whole()
    print(f"{name}: torch.compile of all, for this shape, took {time.perf_counter() - started_s:.1f} s")
    jobs: dict[str, tuple[Job, int]] = {
        "ours": (lambda: read_pages(model, fast, cues), items),
        "torch.func": (lambda: read(network, parameters, fast, cues), items),
        "torch.compile of all, for this shape": (whole, items),
    }
    with torch.no_grad():
        measured = rates(jobs, seconds=SECONDS)
    ours = measured.pop("ours")
    return [
        Result(name=name, unit="queries/s", ours=ours, peer=peer, theirs=theirs) for peer, theirs in measured.items()
    ]


def compile_as_one(model: Model, fast: Tensors, cues: Tensor) -> Job:
    """Return a job of this loop and its energies, compiled as one."""

    def parts(fast: Tensors, cues: Tensor) -> tuple[Tensor, ...]:
        found = read(model.network, model.parameters, fast, cues)
        return found.pattern, found.energy_before, found.energy_after, found.delta_energy

    torch.compiler.reset()
    run = torch.compile(parts, dynamic=False)

    def job() -> None:
        with torch.no_grad():
            run(fast, cues)

    return job


def random_model(network: TrainableNetwork) -> Model:
    """Return an untrained model: arithmetic does not depend on the values of the weights."""
    start = Start(deviation=torch.ones(INPUTS), lift=torch.eye(INPUTS), generator=torch.Generator().manual_seed(0))
    weights, (slow, fast) = network.start(start), network.shapes
    initial = {name: weights[name] for name in fast}
    return Model(
        name=network.kind,
        layout=Layout((Field(name="x", kind="vector", shape=(INPUTS,)),)),
        network=network,
        parameters=Parameters(
            slow={name: weights[name] for name in slow},
            initial=initial,
            reader=initial_reader(STEPS),
            writer=initial_writer(2, initial),
        ),
        transform=Transform(scale=torch.ones(INPUTS), shift=torch.zeros(INPUTS)),
        capacity=32,
        record={},
    )


if __name__ == "__main__":
    main()
