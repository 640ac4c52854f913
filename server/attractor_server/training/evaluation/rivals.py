"""Rivals of a memory, each with the best of several settings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attractor_server.training.baselines import Rival
from attractor_server.training.baselines.graded import Fit, Graded, tune
from attractor_server.training.baselines.hopfield import Hopfield, Rule, Signs, hebb, pseudo_inverse, storkey
from attractor_server.training.baselines.modern import BETAS, STEPS, ModernHopfield
from attractor_server.training.baselines.ngram import MISSING, NGram
from attractor_server.training.baselines.slots import Codec, Float32, Int8, Slots, compute_squared_distances
from attractor_server.training.evaluation.bench import Bench, Probe
from attractor_server.training.evaluation.codecs import PATTERNS, Components, codecs_within
from attractor_server.training.evaluation.linear import tune_gaussian, tune_ridge
from attractor_server.training.evaluation.scores import Method, Row, row_of, scores
from attractor_server.training.metrics import HIGHER_IS_BETTER
from attractor_server.training.recipe import CueTable

R = TypeVar("R", bound=Rival)


def best(bench: Bench, rehearsal: Probe, rivals: Iterable[R]) -> R:
    """Return the best rival by the model's metric."""
    sign = -1 if bench.recipe.data.metric in HIGHER_IS_BETTER else 1

    def error(rival: R) -> float:
        return sign * float(scores(bench, rehearsal.patterns, rehearsal.ask(rival)).mean())

    return min(rivals, key=error)


def rival_row(bench: Bench, probe: Probe, rival: Rival, *, name: str = "") -> Row:
    """Return the row of a rival's answers to the probe's cues."""
    n, d = probe.patterns.shape[1:]
    method = Method(name=name or rival.name, family="rival", bytes=rival.bytes_per_memory(n, d))
    return row_of(bench, probe, method, probe.ask(rival))


FEW = 4
"""Cues of each memory for the conditional Gaussian, which has no memory and is slow"""

PAGES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Bytes of a fast weight, by the number formats of pages whose size is a store's budget"""


def real_rows(bench: Bench) -> Iterator[Row]:
    """Yield stores of each size, the softmax over stored items, and linear guesses from the cue alone."""
    codecs = _codecs(bench)
    for table in bench.recipe.cues:
        ridge = tune_ridge(bench, table)
        for count in bench.counts:
            probe = bench.probe(table, count)
            for name, rival in _stores(bench, codecs, count):
                yield rival_row(bench, probe, rival, name=name)
            yield rival_row(bench, probe, _softmax(bench, table, count))
            yield rival_row(bench, probe, ridge)
        yield from _gaussian(bench, table)


def _codecs(bench: Bench) -> Mapping[int, Sequence[Codec]]:
    """Return codecs by the bytes that they may take for a pattern."""
    components = Components.of(bench.training.pool(PATTERNS))
    budgets = {_budget(bench, count, page) for count in bench.counts for page in PAGES}
    return {budget: list(codecs_within(bench.training, components, budget)) for budget in sorted(budgets)}


def _budget(bench: Bench, count: int, page: str) -> int:
    return max(1, bench.model.page_bytes * PAGES[page] // (4 * count))


def _stores(bench: Bench, codecs: Mapping[int, Sequence[Codec]], count: int) -> Iterator[tuple[str, Rival]]:
    """Yield stores with their names; codes fit a page in each of three number formats, none twice."""
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
    """Yield a row for each number of patterns, if every cue has entries that are known to be right."""
    probes = [bench.probe(table, count).take(FEW) for count in bench.counts]
    if all(bool(probe.given.any(-1).all()) for probe in probes):
        gaussian = tune_gaussian(bench, table)
        for probe in probes:
            yield rival_row(bench, probe, gaussian)


RULES: dict[str, Rule] = {"Hebb": hebb, "Storkey": storkey, "pseudo-inverse": pseudo_inverse}

GRADED = ("Storkey", "pseudo-inverse")

READS = (
    *(Signs(self_coupling=kept) for kept in (0.0, 0.25, 0.5, 1.0)),
    Signs(order="asynchronous"),
)

FIT = Fit(updates=60)


@dataclass(frozen=True)
class BitSlots:
    """A store of every pattern at one bit for each sign."""

    name: str = "nearest stored"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return the bytes of the patterns, each rounded up."""
        return n * -(-d // 8)

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return the stored pattern (memories, m, d) that agrees with each cue in most signs."""
        chosen = compute_squared_distances(cues, items, known).argmin(-1, keepdim=True)
        return items.gather(-2, chosen.expand(*cues.shape))


def sign_rows(bench: Bench) -> Iterator[Row]:
    """Yield each rule with its best reads by sign, then with its best graded ones; then the stores."""
    for table in bench.recipe.cues:
        rehearsals = {count: bench.rehearsal(table, count) for count in bench.counts}
        schedules = {name: _schedules(RULES[name], list(rehearsals.values())) for name in GRADED}
        for count, rehearsal in rehearsals.items():
            probe, tuned = bench.probe(table, count), partial(best, bench, rehearsal)
            for name, rule in RULES.items():
                rival: Rival = tuned([Hopfield(f"{name}, reads by sign", rule, reads) for reads in READS])
                yield rival_row(bench, probe, rival)
            for name, found in schedules.items():
                rival = tuned([Hopfield(f"{name}, graded reads", RULES[name], reads) for reads in found])
                yield rival_row(bench, probe, rival)
            modern = [ModernHopfield(beta=beta, steps=steps) for beta, steps in product(BETAS, STEPS)]
            yield rival_row(bench, probe, tuned(modern))
            yield rival_row(bench, probe, BitSlots())


def _schedules(rule: Rule, rehearsals: Sequence[Probe]) -> Sequence[Graded]:
    """Return a schedule fitted at each number of patterns; all compete at each."""
    return [tune(rule, one.patterns, one.filled_cues, FIT) for one in rehearsals]


FEW_LINES = 8
"""Cues of each memory for baselines without one"""


@dataclass(frozen=True)
class LineSlots:
    """A store of every line at one byte for each character."""

    characters: int
    name: str = "nearest stored"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return one byte for each character."""
        return n * d

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return the stored line (memories, m, d) that agrees with each cue in most of the known characters."""
        keep = None if known is None else known.repeat_interleave(self.characters, -1)
        chosen = compute_squared_distances(self._spread(cues), self._spread(items), keep).argmin(-1, keepdim=True)
        return items.gather(-2, chosen.expand(*cues.shape))

    def _spread(self, lines: Tensor) -> Tensor:
        return one_hot(lines.long(), self.characters).float().flatten(-2)


@dataclass(frozen=True)
class Filler:
    """The n-gram model as a rival without a memory."""

    model: NGram
    name: str = "n-gram"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return 0: it has no memories."""
        return 0

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return the cues (memories, m, d) with their unknown characters filled in."""
        if known is None:
            return cues
        return self.model.fill(torch.where(known, cues, MISSING).flatten(0, 1)).reshape(cues.shape).to(cues.dtype)


def text_rows(bench: Bench) -> Iterator[Row]:
    """Yield for each setting the store, and the filler fitted to all training lines."""
    (field,) = bench.tested.layout.fields
    filler = Filler(NGram.fit(bench.training.pool(1 << 20).long(), characters=len(field.alphabet)))
    for table, count in bench.settings():
        probe: Probe = bench.probe(table, count)
        yield rival_row(bench, probe, LineSlots(len(field.alphabet)))
        yield rival_row(bench, probe.take(FEW_LINES), filler)


def rival_rows(bench: Bench) -> Iterator[Row]:
    """Yield for each setting the rows of all rivals, tuned on training data."""
    match bench.recipe.data.metric:
        case "bit_error":
            yield from sign_rows(bench)
        case "characters":
            yield from text_rows(bench)
        case _:
            yield from real_rows(bench)
