"""Compile the programs of reading a network ahead of time.

Runs as `python -m attractor_server.engine.compute.aot_compiler FOLDER < order.json`, in a process of its own, since the
compiler works for seconds and holds the interpreter for most of them. An order is {"network": `config` with `kind`,
"threads": of who will run the programs}. The programs are written to the folder, each for any number of memories and
patterns, and their gain is printed as one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import ZipFile

import torch
from torch import Generator, Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

from attractor_server.energy.networks import EnergyNetwork, network_of
from attractor_server.energy.networks.protocol import Autodiff, Tensors
from attractor_server.engine.compute.aot import SUFFIX, Program, load

Function: TypeAlias = Callable[[Tensors, Tensors, Tensor], Tensor]

NICE = 19

SHAPES = ((1, 1), (16, 1), (1, 32), (16, 8))
"""Memories and patterns to check and to time with, small batches first"""

TOLERANCE = 1e-4
"""By how much of the largest entry a program may differ from what it was made of"""

REPEATS = 9

HEADERS = ("cpp_cache_precompile_headers", "aot_inductor.precompile_headers")
"""What has headers compiled beforehand, which for two programs takes 9 s longer than it saves (of 63)"""


def main() -> None:
    """Carry out the order on the standard input."""
    os.nice(NICE)
    folder, order = Path(sys.argv[1]), json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    network = network_of(order["network"])
    with torch.no_grad():
        for name, function in functions(network).items():
            compile_to(folder / f"{name}{SUFFIX}", trace(network, function))
        sys.stdout.write(json.dumps(gains(network, load(folder))))


def compile_to(target: Path, program: ExportedProgram) -> None:
    """Write the library of the package that the compiler makes: a program without weights needs no more."""
    from torch._inductor import config  # noqa: PLC0415 - loads more than torch itself needs

    package = str(target.with_suffix(".pt2"))
    settings = {name: False for name in HEADERS if hasattr(config, name)}  # one that it lacks would be refused
    torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=settings)  # noqa: SLF001
    with ZipFile(package) as files:
        (library,) = (name for name in files.namelist() if name.endswith(SUFFIX))
        target.write_bytes(files.read(library))


def functions(network: EnergyNetwork) -> Mapping[str, Function]:
    """Return the functions that the programs are made of, by name."""
    return {"energy": network.energy, "input_gradient": Autodiff(network).input_gradient}


def trace(network: EnergyNetwork, function: Function) -> ExportedProgram:
    """Trace the function of tensors one after another, with symbols for the numbers of memories and patterns."""
    inputs = _some(network, *_choose_sizes(network))
    graph: Any = make_fx(partial(_call, function, network), tracing_mode="symbolic")(*inputs)
    shared, own = network.shapes
    memories, patterns = Dim("memories"), Dim("patterns")
    sizes = (*({} for _ in shared), *({0: memories} for _ in own), {0: memories, 1: patterns})
    return torch.export.export(graph, inputs, dynamic_shapes=sizes, strict=False)


def gains(network: EnergyNetwork, programs: Mapping[str, Program]) -> list[tuple[int, float]]:
    """Return for each of `SHAPES` the patterns in it, and how many times as fast the programs are.

    Raises:
        ValueError: a program computes something else.
    """
    found = []
    for memories, patterns in SHAPES:
        inputs, plain_s, compiled_s = _some(network, memories, patterns), 0.0, 0.0
        for name, function in functions(network).items():
            plain, compiled = partial(_call, function, network, *inputs), partial(programs[name], list(inputs))
            expected = plain()
            if not (compiled() - expected).abs().max() <= TOLERANCE * expected.abs().max():
                raise ValueError(f"the compiled {name} of {memories} × {patterns} patterns is not that of the network")
            plain_s, compiled_s = plain_s + _took_s(plain), compiled_s + _took_s(compiled)
        found.append((memories * patterns, plain_s / compiled_s))
    return found


def _choose_sizes(network: EnergyNetwork) -> tuple[int, int]:
    """Return numbers of memories and patterns that nothing in the network has, so that no size is taken for another."""
    taken = {size for shapes in network.shapes for shape in shapes.values() for size in shape}
    memories, patterns = islice((size for size in count(3) if size not in taken), 2)
    return memories, patterns


def _call(function: Function, network: EnergyNetwork, *inputs: Tensor) -> Tensor:
    shared, own = network.shapes
    *weights, x = inputs
    slow, fast = dict(zip(shared, weights, strict=False)), dict(zip(own, weights[len(shared) :], strict=True))
    return function(slow, fast, x)


def _some(network: EnergyNetwork, memories: int, patterns: int) -> tuple[Tensor, ...]:
    """Draw random weights and patterns (memories, patterns, d) of a network with `inputs`."""
    generator = Generator().manual_seed(0)
    shared, own = network.shapes
    shapes = [*shared.values(), *((memories, *shape) for shape in own.values())]
    inputs: Any = network.config["inputs"]
    weights = (torch.randn(shape, generator=generator) * 0.1 for shape in shapes)
    return *weights, torch.randn(memories, patterns, inputs, generator=generator)


def _took_s(way: Callable[[], object]) -> float:
    """Return the time of the shortest of some runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        way()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
