"""Is a cue read in the page that holds its pattern, and what does it cost that there are others?

One memory of 16 pages, every other one with as many test patterns as the model is rated for, the others with an
eighth of them; all patterns are cues, distorted in each way that the model was trained for. The page is chosen by the
energy of the cue, through the model's calibration, as the engine does it; the peers choose by that energy alone, and by
the energy after reading.
Cost: queries of single patterns, to memories of 16 pages and of one.
"""

import asyncio
from collections.abc import Iterator
from functools import partial

import torch
from _report import Result, rates, report
from torch import Generator, Tensor

from attractor_server.energy.familiarity import choice_of
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine import compute
from attractor_server.engine.engine import Engine
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.training.datasets import Source, load_dataset
from attractor_server.training.distortions import distort
from attractor_server.training.model_lookup import open_model, recipe_of

MODELS = ("binary-128", "glyphs-28", "embedding-384")
PAGES, FEW, MEMORIES = 16, 8, 32


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    models = [open_model(name) for name in MODELS]
    report([result for model in models for result in (*choices(model), *costs(model))])


def choices(model: Model) -> Iterator[Result]:
    """Yield the shares of cues with the right page, for each kind of cue and for pages of both sizes."""
    recipe, held = recipe_of(model), [model.capacity, model.capacity // FEW] * (PAGES // 2)
    source = load_dataset(recipe.data.name, "test")
    patterns = different(source, sum(held))
    fast, stored = write_memories(model, patterns, held), torch.tensor(held)
    right = torch.arange(PAGES).repeat_interleave(stored)
    for kind in recipe.cues:
        cues = distort(patterns[None], source.layout, [kind], Generator().manual_seed(3), drifts=source.drifts).values[
            0
        ]
        x = model.encode(cues).expand(PAGES, -1, -1)
        before, after = compute.compute_energies(model, fast, x), compute.read_pages(model, fast, x).energy_after
        ours = choice_of(before, stored, model.calibration).page == right
        alone, late = (choice_of(energy, stored, None).page == right for energy in (before, after))
        full = stored[right] == model.capacity
        for pages, of, peer, theirs in (
            ("full pages", full, "energy of the cue alone", alone),
            ("pages of few", ~full, "energy of the cue alone", alone),
            ("all pages", full | ~full, "energy after reading", late),
        ):
            name = f"{model.name}, {kind.kind} {kind.amount:g}: {pages}"
            yield Result(name=name, unit="% right", ours=percent(ours[of]), peer=peer, theirs=percent(theirs[of]))


def percent(right: Tensor) -> float:
    """Return the percentage of these, bool."""
    return 100 * right.float().mean().item()


def costs(model: Model) -> Iterator[Result]:
    """Yield queries a second of memories of many pages and of one, through the engine."""
    values = different(load_dataset(recipe_of(model).data.name, "test"), PAGES * model.capacity).numpy()
    engine, loop = Engine([model], bank_bytes=2 * MEMORIES * PAGES * model.page_bytes), asyncio.new_event_loop()
    settings = MemorySettings(page_patterns=model.capacity)

    def jobs(operation: Operation, kind: str, given: list[Floats]) -> list[Job]:
        steps = model.steps if operation is Operation.QUERY else 0
        return [
            Job(operation=operation, memory=memories[kind][n], future=loop.create_future(), values=one, steps=steps)
            for n, one in enumerate(given)
        ]

    memories: dict[str, list[MemoryRecord]] = {
        kind: [MemoryRecord(f"{kind}/{n}", model.name, model.digest, 0.0, settings) for n in range(MEMORIES)]
        for kind in ("many", "one")
    }
    engine.run(jobs(Operation.STORE, "many", [values] * MEMORIES))
    engine.run(jobs(Operation.STORE, "one", [values[: model.capacity]] * MEMORIES))
    asked = {kind: jobs(Operation.QUERY, kind, [values[n][None] for n in range(MEMORIES)]) for kind in ("many", "one")}
    found = rates({kind: (partial(engine.run, given), MEMORIES) for kind, given in asked.items()})
    yield Result(
        name=f"{model.name}: queries, {PAGES} pages each",
        unit="queries/s",
        ours=found["many"],
        peer="1 page each",
        theirs=found["one"],
    )


def different(source: Source, count: int) -> Tensor:
    """Return patterns (count, values), no two the same; a few characters are in several typefaces."""
    generator = Generator().manual_seed(1)
    some: Tensor = source.sample(8, count, generator).flatten(0, 1).unique(dim=0)
    return some.index_select(0, torch.randperm(len(some), generator=generator)[:count])


def write_memories(model: Model, patterns: Tensor, held: list[int]) -> Tensors:
    """Return the fast weights of pages that hold so many of the patterns, each (pages, *shape)."""
    parts = torch.nn.utils.rnn.pad_sequence(list(patterns.split(held)), batch_first=True)
    present = torch.arange(parts.shape[1]) < torch.tensor(held)[:, None]
    nothing = torch.zeros(len(held), dtype=torch.int64)
    fast = model.parameters.memories(len(held))
    return compute.write_pages(model, fast, model.encode(parts), present=present, stored=nothing)


if __name__ == "__main__":
    main()
