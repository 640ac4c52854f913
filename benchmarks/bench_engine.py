"""How much faster is one batch across memories than the alternatives, and how near to the machine's limit?

Two networks with d = 384 and 16k fast weights a memory, float32, one thread: `embedding-384`, a bilinear one, as it
ships, and a quadratic one with random weights, K = 5 reading and T = 2 writing steps. Our reads give patterns, the
energies before and after and ΔE; the peers' give patterns alone. Peers, each at its best: a
loop over memories with autograd; `vmap(grad)` over all memories, eager, and compiled as a whole where a compiler is
there; titans-pytorch's `NeuralMemory` (from the extra `bench`) with as many states of as many weights, which is read
by one pass and written by one step.

What it costs that each page sees vectors in their own metric: queries and rewrites of `embedding-384` in users' units,
with frames beside without, with all that an engine does for them but keep them.

On a GPU: python benchmarks/bench_engine.py --device cuda --memories 131072
"""

import argparse
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch
from _engine_peers import Job, can_compile, loop_reads, loop_writes, titans_reads, titans_writes, vmap_reads
from _limits import FORMULA, READING, WRITING, Ruler, settle, work_of
from _report import Result, rates, report
from torch import Tensor
from torch.nn.functional import normalize

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.transform import Transform
from attractor_server.engine.compute.dispatch import (
    can_read_in_place,
    find_frames,
    read_in_place,
    read_pages,
    write_pages,
)
from attractor_server.fields import Field, Layout

INPUTS, FEATURES, STEPS, WRITES, PATTERNS = 384, 128, 5, 2, 32
SECONDS = 2.0
LOOPED = 8
"""Memories of a peer that takes them one by one: time grows with their number"""
AT_ONCE = 16384
"""Memories whose weights are created at once"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--memories", type=int, default=256)
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="for each figure")
    arguments.add_argument("--results", type=Path, help="file for the lines (default: benchmarks/results/…)")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(given.device)
    ruler = Ruler(device)
    results = [
        result for model in (load_shipped(), random_model()) for result in all_of(model.to(device), ruler, given)
    ]
    best = ruler.machine
    print(f"{FORMULA}\n{READING}\n{WRITING}")
    print(f"peak {best.peak_flops / 1e9:,.1f} GFLOP/s, bandwidth {best.bandwidth / 1e9:,.1f} GB/s, {device}\n")
    report(results, kept=given.results)


def all_of(model: Model, ruler: Ruler, given: argparse.Namespace) -> Iterator[Result]:
    """Yield every figure of one model."""
    patterns = torch.randn(given.memories, 8, INPUTS, device=ruler.device)
    fast = fill_memories(model, patterns)
    cues = patterns + 0.3 * torch.randn_like(patterns)
    yield from reads(model, ruler, fast, cues[:, :1].contiguous(), given.seconds, others=True)
    yield from reads(model, ruler, fast, cues, given.seconds, others=False)
    yield from writes(model, ruler, fast, min(given.memories, 64), PATTERNS, given.seconds)
    yield from writes(model, ruler, fast, min(given.memories, 256), 1, given.seconds)
    yield from metrics(model, given.memories, given.seconds)


def reads(model: Model, ruler: Ruler, fast: Tensors, cues: Tensor, seconds: float, *, others: bool) -> list[Result]:
    """Return our queries/s, with pages in order or scattered, and in a large bank, beside peers and limit."""
    memories, n, _ = cues.shape
    name = f"{model.name}: reads of {memories:,} memories × {n}"
    looped = min(memories, LOOPED)
    jobs: dict[str, tuple[Job, int]] = {
        "ours": (lambda: read_pages(model, fast, cues), memories * n),
        "loop with autograd": (loop_reads(model, fast, cues, looped), looped * n),
        "vmap(grad) eager": (vmap_reads(model, fast, cues, compiled=False), memories * n),
    }
    if others:
        places = torch.randperm(memories, device=cues.device)
        jobs["scattered"] = (lambda: read_scattered(model, fast, places, cues), memories * n)
        values, known = model.decode(cues), torch.rand(cues.shape, device=cues.device) < 0.5
        jobs["held"] = (lambda: read_pages(model, fast, cues, hold=model.hold(values, known)), memories * n)
        if can_compile():
            jobs["vmap(grad) compiled"] = (vmap_reads(model, fast, cues, compiled=True), memories * n)
        if (titans := titans_reads(cues, weights=FEATURES**2)) is not None:
            jobs["titans-pytorch NeuralMemory, one pass"] = (titans, memories)
    measured = measure_rates(jobs, cues.device, seconds)
    work = work_of(model.network, n)
    least_s = ruler.again().limit_s(
        operations=work.count_reading_operations(model.steps), touched_bytes=work.page_bytes
    )
    in_bank, held = measured.pop("scattered", None), measured.pop("held", None)
    results = compare(name, "queries/s", measured, n / least_s)
    for kind, ours, peer, theirs in (
        ("scattered in a bank", in_bank, "limit", n / least_s),
        ("half of the values held", held, "nothing held", measured["ours"]),
    ):
        if ours is not None:
            results.append(Result(name=f"{name}, {kind}", unit="queries/s", ours=ours, peer=peer, theirs=theirs))
    return results


def read_scattered(model: Model, bank: Tensors, places: Tensor, cues: Tensor) -> None:
    """Read as the engine does: where the pages lie in the bank, or else from a copy."""
    if can_read_in_place(model):
        read_in_place(model, bank, places, cues)
    else:
        read_pages(model, {name: value.index_select(0, places) for name, value in bank.items()}, cues)


def writes(model: Model, ruler: Ruler, fast: Tensors, memories: int, n: int, seconds: float) -> list[Result]:
    """Return memories/s of a rewrite from the initial weights, or of single stores onto present weights."""
    rewrite = n > 1
    patterns = torch.randn(memories, n, INPUTS, device=model.device)
    before = (
        model.parameters.memories(memories) if rewrite else {name: value[:memories] for name, value in fast.items()}
    )
    present = torch.ones(memories, n, dtype=torch.bool, device=model.device)
    stored = torch.zeros(memories, dtype=torch.long, device=model.device)
    jobs: dict[str, tuple[Job, int]] = {
        "ours": (lambda: write_pages(model, before, patterns, present=present, stored=stored), memories),
        "loop with autograd": (loop_writes(model, before, patterns, LOOPED), LOOPED),
    }
    if rewrite and (titans := titans_writes(patterns, weights=FEATURES**2)) is not None:
        jobs["titans-pytorch NeuralMemory, one step"] = (titans, memories)
    measured = measure_rates(jobs, model.device, seconds)
    work = work_of(model.network, n)
    steps = model.parameters.writing_steps
    least_s = ruler.again().limit_s(operations=work.count_writing_operations(steps), touched_bytes=2 * work.page_bytes)
    kind = f"rewrites of {n} patterns" if rewrite else "single stores"
    return compare(f"{model.name}: {kind}, {memories} memories", "memories/s", measured, 1 / least_s)


def metrics(model: Model, memories: int, seconds: float) -> Iterator[Result]:
    """Yield queries/s and rewrites/s of pages in their own metric, beside those in the model's."""
    if not model.has_metric:
        return
    stored = normalize(torch.randn(memories, PATTERNS, INPUTS, device=model.device), dim=2)
    cues, places = stored[:, :1] + 0.02, torch.randperm(memories, device=model.device)
    banks = {framed: rewrite(model, stored, framed=framed) for framed in (False, True)}
    few = stored[:64]
    for kind, unit, items, job in (
        (f"queries of {memories:,} memories × 1", "queries/s", memories, partial(ask, model, banks, places, cues)),
        (f"rewrites of {PATTERNS} patterns, {len(few)} memories", "memories/s", len(few), partial(rewrite, model, few)),
    ):
        found = measure_rates(
            {str(framed): (partial(job, framed=framed), items) for framed in (True, False)}, model.device, seconds
        )
        name = f"{model.name}: {kind}, own metric"
        yield Result(name=name, unit=unit, ours=found["True"], peer="the model's metric", theirs=found["False"])


def ask(model: Model, banks: Mapping[bool, Tensors], places: Tensor, cues: Tensor, *, framed: bool) -> Tensor:
    """Return the answers to cues (pages, 1, values) where their pages lie in a bank, in users' units."""
    bank = banks[framed]
    if not can_read_in_place(model):
        bank = {name: value.index_select(0, places) for name, value in bank.items()}
        frames = find_frames(model, bank) if framed else None
        return model.decode(read_pages(model, bank, model.encode(cues, frames)).pattern, frames)
    frames = find_frames(model, bank, places) if framed else None
    return model.decode(read_in_place(model, bank, places, model.encode(cues, frames)).pattern, frames)


def rewrite(model: Model, values: Tensor, *, framed: bool) -> Tensors:
    """Return the tensors of pages written from values (pages, n, values), in the loops that a server makes."""
    present = torch.ones(values.shape[:2], dtype=torch.bool, device=model.device)
    own = model.fit_frames(values, present=present) if framed else {}
    frames, fast = find_frames(model, own) if framed else None, model.parameters.memories(len(values))
    for start in range(0, values.shape[1], model.write_chunk):
        x = model.encode(values[:, start : start + model.write_chunk], frames)
        stored = torch.full((len(values),), start, device=model.device)
        fast = write_pages(model, fast, x, present=present[:, : x.shape[1]], stored=stored)
    return {**fast, **own}


def measure_rates(jobs: Mapping[str, tuple[Job, int]], device: torch.device, seconds: float) -> dict[str, float]:
    """Return items/s of each job, in turns, each timed until the device is done."""

    def until_done(job: Job) -> Job:
        def run() -> None:
            job()
            settle(device)

        return run

    return rates({name: (until_done(job), items) for name, (job, items) in jobs.items()}, seconds=seconds)


def compare(name: str, unit: str, measured: Mapping[str, float], limit: float) -> list[Result]:
    """Return our figure beside every other one."""
    ours = measured["ours"]
    others = {**{peer: figure for peer, figure in measured.items() if peer != "ours"}, "limit": limit}
    return [Result(name=name, unit=unit, ours=ours, peer=peer, theirs=figure) for peer, figure in others.items()]


def fill_memories(model: Model, patterns: Tensor) -> Tensors:
    """Return fast weights that hold the patterns, each (memories, *shape)."""
    parts = []
    for x in patterns.split(AT_ONCE):
        present = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        stored = torch.zeros(len(x), dtype=torch.long, device=x.device)
        parts.append(write_pages(model, model.parameters.memories(len(x)), x, present=present, stored=stored))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def load_shipped() -> Model:
    """Load the model of embeddings that ships."""
    return load_model(Path(str(files("attractor_server"))) / "models" / "embedding-384.safetensors", "cpu")


def random_model() -> Model:
    """Return untrained slow weights and loops: arithmetic does not depend on their values."""
    initial = {"W": torch.zeros(FEATURES, FEATURES), "b": torch.zeros(FEATURES)}
    slow = {
        "A": torch.randn(INPUTS, FEATURES) / INPUTS**0.5,
        "a0": torch.zeros(FEATURES),
        "log_q": 0.1 * torch.randn(INPUTS),
        "qb": 0.1 * torch.randn(INPUTS),
    }
    return Model(
        name="quadratic",
        layout=Layout((Field(name="x", kind="vector", shape=(INPUTS,)),)),
        network=Quadratic(inputs=INPUTS, features=FEATURES),
        parameters=Parameters(
            slow=slow, initial=initial, reader=initial_reader(STEPS), writer=initial_writer(WRITES, initial)
        ),
        transform=Transform(scale=torch.ones(INPUTS), shift=torch.zeros(INPUTS)),
        capacity=PATTERNS,
        record={},
    )


if __name__ == "__main__":
    main()
