"""One recipe to one model file: train, measure on validation data, save (`attractor train`)."""

from collections.abc import Mapping
from pathlib import Path

import torch

from attractor_server.energy.model import SUFFIX, Model, save_model
from attractor_server.fields import Field, Layout
from attractor_server.training.datasets import load_dataset
from attractor_server.training.datasets.glyphs import SIDE
from attractor_server.training.episodes import Dataset
from attractor_server.training.journal import Journal
from attractor_server.training.meta import Trainer
from attractor_server.training.progress import progress_bar
from attractor_server.training.recipe import Recipe, load_recipe
from attractor_server.training.start import Blueprint, for_users, initial_parameters
from attractor_server.training.validation import Distortion, Task, fit_ridge, validate

__all__ = ["IMAGE", "fit_ridge", "load_dataset", "train", "validate"]

IMAGE = Field(name="image", kind="image", shape=(SIDE, SIDE), minimum=-4.0, maximum=5.0)
"""Dark 0 to bright 1; the range leaves room for noise."""
DISTORTIONS: tuple[Distortion, ...] = ("block", "noise")


def train(  # noqa: PLR0913
    recipe_path: Path, *, output: Path, run_dir: Path, budget_s: float, resume: bool = True, show_progress: bool = True
) -> Model:
    """Trains the recipe's model, saving as it goes, and writes `output/NAME.safetensors`.

    The budget holds for the run as a whole: a resumed run spends what is left of it. Without `resume` it starts anew.

    Raises:
        SettingsError: the recipe or the budget cannot be meant, or `run_dir` holds a run of another recipe.
    """
    recipe = load_recipe(recipe_path)
    data, held_out = (load_dataset(recipe.episodes.dataset, split) for split in ("train", "validation"))
    blueprint, start = initial_parameters(data.patterns, recipe.network)
    trainer = Trainer(recipe, blueprint, start, data)
    if not (resume and trainer.resume(run_dir)):
        trainer.save(run_dir)
    task = Task(count=recipe.capacity)
    journal = Journal(trainer, lambda: validate(blueprint, trainer.parameters, held_out, task), run_dir)
    with progress_bar(visible=show_progress) as show:
        trainer.run(budget_s=budget_s, each_step=lambda progress: show(progress, journal.keep(progress)))
    trainer.save(run_dir)
    journal.measure(trainer.progress)
    model = _model(recipe, blueprint, trainer, _figures(recipe, blueprint, trainer, data, held_out))
    return save_model(model, output / f"{recipe.name}{SUFFIX}")


def _figures(
    recipe: Recipe, blueprint: Blueprint, trainer: Trainer, data: Dataset, held_out: Dataset
) -> dict[str, dict[str, float]]:
    """Figures on validation data, by kind of cue and size of chunk."""
    figures = {}
    for distortion in DISTORTIONS:
        ridge = fit_ridge(data.patterns, distortion=distortion)
        for chunk in sorted({1, min(8, recipe.capacity), recipe.capacity}):
            task = Task(count=recipe.capacity, chunk=chunk, distortion=distortion)
            figures[f"{distortion}, chunks of {chunk}"] = validate(
                blueprint, trainer.parameters, held_out, task, ridge=ridge
            )
    return figures


def _model(recipe: Recipe, blueprint: Blueprint, trainer: Trainer, figures: Mapping[str, Mapping[str, float]]) -> Model:
    progress = trainer.progress
    record = {
        "recipe": recipe.as_record(),
        "steps": progress.step,
        "wall_s": round(progress.elapsed_s, 1),
        "skipped": progress.skipped,
        "validation": figures,
        "torch": str(torch.__version__),
    }
    return Model(
        name=recipe.name,
        layout=Layout((IMAGE,)),
        network=blueprint.network,
        parameters=trainer.parameters,
        transform=for_users(blueprint.transform),
        capacity=recipe.capacity,
        record=record,
    )
