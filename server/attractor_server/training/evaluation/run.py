"""Evaluation of a model, or of several seeds of one (`attractor evaluate`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attractor_server.energy.model import Model
from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.evaluation.bench import Bench
from attractor_server.training.evaluation.measures import (
    curve_rows,
    erase_rows,
    memory_rows,
    repeat_rows,
    transfer_rows,
)
from attractor_server.training.evaluation.mixtures import mixture_rows
from attractor_server.training.evaluation.pages import page_rows
from attractor_server.training.evaluation.rivals import rival_rows
from attractor_server.training.evaluation.scores import Row
from attractor_server.training.evaluation.seeds import check_seeds, combine_seeds
from attractor_server.training.model_lookup import open_model, recipe_of


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Extent of an evaluation."""

    counts: Sequence[int] = ()
    """Patterns in a memory; none: the usual counts of the recipe"""
    memories: int = 64
    split: Split = "test"
    rivals: bool = True
    curves: bool = False
    pages: bool = False
    """Whether one memory also takes a thousand patterns, in pages"""
    transfer: bool = False
    """Whether a vector model is also fitted to another source"""
    mixture: bool = False
    """Whether cues are also of a mixture of kinds, beside look-ups that are tuned on it"""


def evaluate(names: Sequence[str], extent: Extent, *, control: str | None = None) -> Sequence[Row]:
    """Return the rows of the models of these files or names; several have to be seeds of one recipe.

    Rivals do not depend on the seed: they are measured once.

    Raises:
        ModelFileError: a file is no model.
        SettingsError: a name is unknown, or the files do not belong together.
    """
    models = {name: open_model(name) for name in names}
    check_seeds({name: recipe_of(model) for name, model in models.items()})
    memoryless = None if control is None else open_model(control)
    first, *others = (_bench(model, extent) for model in models.values())
    tables = [list(_own(bench, extent, memoryless)) for bench in (first, *others)]
    rivals = list(rival_rows(first)) if extent.rivals else []
    return [*combine_seeds(tables), *rivals]


def _bench(model: Model, extent: Extent) -> Bench:
    return Bench.of(model, counts=extent.counts, memories=extent.memories, split=extent.split)


def _own(bench: Bench, extent: Extent, control: Model | None) -> Iterator[Row]:
    yield from memory_rows(bench, control=control)
    if extent.curves:
        yield from curve_rows(bench)
    yield from erase_rows(bench)
    yield from repeat_rows(bench)
    if extent.pages:
        yield from page_rows(bench)
    if extent.transfer:
        yield from transfer_rows(bench)
    if extent.mixture:
        yield from mixture_rows(bench)
