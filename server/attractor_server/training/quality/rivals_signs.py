"""Rivals for random signs: Hopfield networks by three rules and two kinds of reads, the modern one, and a store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from torch import Tensor

from attractor_server.training.baselines import Rival
from attractor_server.training.baselines.graded import Fit, Graded, tune
from attractor_server.training.baselines.hopfield import Hopfield, Rule, Signs, hebb, pseudo_inverse, storkey
from attractor_server.training.baselines.modern import BETAS, STEPS, ModernHopfield
from attractor_server.training.baselines.slots import squared_distances
from attractor_server.training.quality.bench import Bench, Probe
from attractor_server.training.quality.rows import Row
from attractor_server.training.quality.tuning import best, rival_row

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
        """Each pattern to the next whole byte."""
        return n * -(-d // 8)

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """The stored pattern (memories, m, d) that agrees with each cue in most signs."""
        chosen = squared_distances(cues, items, known).argmin(-1, keepdim=True)
        return items.gather(-2, chosen.expand(*cues.shape))


def sign_rows(bench: Bench) -> Iterator[Row]:
    """Each rule at its best reads by sign, then at its best graded ones; then the stores."""
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
    """One fitted at each number of patterns: they all compete at each."""
    return [tune(rule, one.patterns, one.filled, FIT) for one in rehearsals]
