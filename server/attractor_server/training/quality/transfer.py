"""Rows of another source: a model fitted to embeddings that it was not trained on, beside what these alone allow."""

from collections.abc import Iterator
from dataclasses import replace

from attractor_server.training.adapting import adapted
from attractor_server.training.datasets import load_dataset
from attractor_server.training.quality.bench import Bench
from attractor_server.training.quality.linear import tuned_gaussian, tuned_ridge
from attractor_server.training.quality.memory import memory_rows
from attractor_server.training.quality.rows import Row
from attractor_server.training.quality.tuning import rival_row

OTHERS = {"sentences": ("sentences-mpnet", "sentences-lsa")}
"""For a data set those that stand for other sources"""
COUNTS = 16, 32, 64
FEW = 4
"""Cues of each memory that the conditional Gaussian is asked"""
SAMPLES = 1 << 20


def transfer_rows(bench: Bench) -> Iterator[Row]:
    """Memory, cue and linear guesses for the first kind of cue, from each other source there is."""
    for name in OTHERS.get(bench.recipe.data.name, ()):
        yield from (replace(row, table="transfer", cue=f"{row.cue} of {name}") for row in _rows(_other(bench, name)))


def _rows(other: Bench) -> Iterator[Row]:
    yield from memory_rows(other)
    (cue,) = other.recipe.cues
    ridge, gaussian = tuned_ridge(other, cue), tuned_gaussian(other, cue)
    for count in other.counts:
        probe = other.probe(cue, count)
        yield rival_row(other, probe, ridge)
        yield rival_row(other, probe.few(FEW), gaussian)


def _other(bench: Bench, name: str) -> Bench:
    """The bench of the adapted model: fitted on the training split, measured on the test split."""
    training, held_out, tested = (load_dataset(name, split) for split in ("train", "validation", "test"))
    data = bench.recipe.data.model_copy(update={"name": name})
    recipe = bench.recipe.model_copy(update={"data": data, "cues": bench.recipe.cues[:1]})
    model = adapted(bench.model, training.pool(SAMPLES))
    return replace(
        bench, model=model, recipe=recipe, training=training, held_out=held_out, tested=tested, counts=COUNTS
    )
