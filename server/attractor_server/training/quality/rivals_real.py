"""Rivals for real values: stores, whole or coded, the modern Hopfield network, and linear guesses without a memory."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from attractor_server.training.baselines import Rival
from attractor_server.training.baselines.modern import BETAS, STEPS, ModernHopfield
from attractor_server.training.baselines.slots import Codec, Float32, Int8, Slots
from attractor_server.training.quality.bench import Bench
from attractor_server.training.quality.codecs import PATTERNS, Components, codecs_within
from attractor_server.training.quality.linear import tuned_gaussian, tuned_ridge
from attractor_server.training.quality.rows import Row
from attractor_server.training.quality.tuning import best, rival_row
from attractor_server.training.recipe import CueTable

FEW = 4
"""Cues of each memory that the conditional Gaussian is asked: it has no memory, and takes its time"""
PAGES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Bytes of a fast weight in pages that stores are given as much as"""


def real_rows(bench: Bench) -> Iterator[Row]:
    """Stores of each size, the softmax over what is stored, and what a linear map makes of the cue alone."""
    codecs = _codecs(bench)
    for table in bench.recipe.cues:
        ridge = tuned_ridge(bench, table)
        for count in bench.counts:
            probe = bench.probe(table, count)
            for name, rival in _stores(bench, codecs, count):
                yield rival_row(bench, probe, rival, name=name)
            yield rival_row(bench, probe, _softmax(bench, table, count))
            yield rival_row(bench, probe, ridge)
        yield from _gaussian(bench, table)


def _codecs(bench: Bench) -> Mapping[int, Sequence[Codec]]:
    """By the bytes that there are for a pattern."""
    components = Components.of(bench.training.pool(PATTERNS))
    budgets = {_budget(bench, count, page) for count in bench.counts for page in PAGES}
    return {budget: list(codecs_within(bench.training, components, budget)) for budget in sorted(budgets)}


def _budget(bench: Bench, count: int, page: str) -> int:
    return max(1, bench.model.page_bytes * PAGES[page] // (4 * count))


def _stores(bench: Bench, codecs: Mapping[int, Sequence[Codec]], count: int) -> Iterator[tuple[str, Rival]]:
    """With their names; codes within what a page takes in each of three number formats, none twice."""
    yield "nearest stored", Slots(Float32())
    yield Slots(Int8()).name, Slots(Int8())
    seen = set()
    for page in PAGES:
        for codec in codecs[_budget(bench, count, page)]:
            if codec.name not in seen:
                yield f"{codec.name} (a page of {page})", Slots(codec)
            seen.add(codec.name)


def _softmax(bench: Bench, table: CueTable, count: int) -> ModernHopfield:
    rehearsal = bench.rehearsal(table, count)
    unit = float(rehearsal.patterns.square().mean())
    rivals = (ModernHopfield(beta=beta / unit, steps=steps) for beta, steps in product(BETAS, STEPS))
    return best(bench, rehearsal, rivals)


def _gaussian(bench: Bench, table: CueTable) -> Iterator[Row]:
    """For each number of patterns, where every cue tells which entries are right."""
    probes = [bench.probe(table, count).few(FEW) for count in bench.counts]
    if all(bool(probe.given.any(-1).all()) for probe in probes):
        gaussian = tuned_gaussian(bench, table)
        for probe in probes:
            yield rival_row(bench, probe, gaussian)
