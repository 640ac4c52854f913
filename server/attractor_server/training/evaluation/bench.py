"""Data of one model's evaluation: its three splits, and the cues that its recipe names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.training.baselines import Rival
from attractor_server.training.datasets import Source, load_dataset
from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.distortions import Cues
from attractor_server.training.model_lookup import recipe_of
from attractor_server.training.recipe import CueTable, DistortionTable, Recipe
from attractor_server.training.validation import Task, draw_trial, fill_gaps

TEST_SEED, TUNING_SEED = 9000, 5000
"""Seeds far from those of validation in training"""

TUNING_MEMORIES = 16


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Memories of patterns and a cue for each, (memories, patterns, values)."""

    cue: str
    patterns: Tensor
    cues: Cues
    unseen: Cues
    """Cues of as many patterns that are not stored"""
    filled_cues: Tensor
    """Cues with the mean of the training data where an entry is missing"""

    @property
    def count(self) -> int:
        """N"""
        return self.patterns.shape[1]

    @property
    def given(self) -> Tensor:
        """Mask of the right entries of the cues (memories, patterns, values): known ones, or those beside a gap.

        A cue with gaps is right elsewhere, and every rival can see the gaps.
        """
        return right_entries(self.cues)

    def take(self, cues: int) -> "Probe":
        """Return these memories with their first cues alone, for slow baselines without a memory."""
        part = Cues(self.cues.values[:, :cues], self.cues.known[:, :cues])
        return Probe(
            cue=self.cue, patterns=self.patterns, cues=part, unseen=self.unseen, filled_cues=self.filled_cues[:, :cues]
        )

    def ask(self, rival: Rival) -> Tensor:
        """Return a rival's answers to the cues; it is told which entries are given."""
        given = self.given
        masked = given.any(-1, keepdim=True)
        if not bool(masked.any()):
            return rival.recall(self.patterns, self.filled_cues)
        told = rival.recall(self.patterns, self.filled_cues, known=given)
        if bool(masked.all()):
            return told
        return torch.where(masked, told, rival.recall(self.patterns, self.filled_cues))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model, the recipe it was made by, and its data."""

    model: Model
    recipe: Recipe
    training: Source
    held_out: Source
    """Validation data"""
    tested: Source
    counts: Sequence[int]
    memories: int

    @classmethod
    def of(cls, model: Model, *, counts: Sequence[int] = (), memories: int = 64, split: Split = "test") -> "Bench":
        """Create a bench with the recipe that the model's file carries.

        Raises:
            SettingsError: it carries none that this version knows.
        """
        recipe = recipe_of(model)
        training, held_out, tested = (load_dataset(recipe.data.name, one) for one in ("train", "validation", split))
        return cls(
            model=model,
            recipe=recipe,
            training=training,
            held_out=held_out,
            tested=tested,
            counts=counts or usual_counts(recipe),
            memories=memories,
        )

    def probe(self, table: CueTable, count: int) -> Probe:
        """Return test memories of `count` patterns, always the same ones."""
        return self.draw(self.tested, [table], count, self.memories, TEST_SEED)

    def rehearsal(self, table: CueTable, count: int, *, memories: int = TUNING_MEMORIES) -> Probe:
        """Return training memories of `count` patterns, to tune rivals on."""
        return self.draw(self.training, [table], count, memories, TUNING_SEED)

    def settings(self) -> Iterator[tuple[CueTable, int]]:
        """Yield each kind of cue with each number of patterns."""
        return ((table, count) for table in self.recipe.cues for count in self.counts)

    def draw(  # noqa: PLR0913
        self, source: Source, tables: Sequence[CueTable], count: int, memories: int, seed: int, *, name: str = ""
    ) -> Probe:
        """Return memories of `count` patterns of a source, with cues of one kind or of a mixture of that name."""
        task = Task(data=self.recipe.data, cues=tables, count=count, memories=memories, seed=seed + count)
        trial = draw_trial(source, task)
        return Probe(
            cue=name or cue_name(tables[0]),
            patterns=trial.patterns,
            cues=trial.cues,
            unseen=trial.unseen,
            filled_cues=fill_gaps(self.model, trial.cues),
        )


def right_entries(cues: Cues) -> Tensor:
    """Return a mask of the right entries of cues, as `Probe.given`."""
    missing = cues.values.isnan()
    return cues.known | (missing.any(-1, keepdim=True) & ~missing)


def usual_counts(recipe: Recipe) -> Sequence[int]:
    """Return half the rated capacity, the capacity, and twice that; for signs the counts of the Hopfield literature."""
    if recipe.data.metric == "bit_error":
        return 32, 48, 64, 96
    return max(1, recipe.capacity // 2), recipe.capacity, 2 * recipe.capacity


def cue_name(table: CueTable) -> str:
    """Return the name of a cue in the tables."""
    return ", ".join(_distortion_name(one) for one in (table, *table.then))


def _distortion_name(table: DistortionTable) -> str:
    match table.kind:
        case "field":
            return f"field {table.field}"
        case "clean":
            return "clean"
        case _:
            return f"{table.kind} {table.amount:g}"
