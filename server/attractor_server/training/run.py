"""Train, calibrate, validate and save the model of a recipe (`attractor train`)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import SUFFIX, save_model
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import Alike, Source, Warped, load_dataset
from attractor_server.training.eraser import erasing_losses, start_eraser
from attractor_server.training.initialization import inherit_parameters, initialize_model
from attractor_server.training.model_lookup import open_model
from attractor_server.training.objective import episode_losses, memoryless_losses
from attractor_server.training.posterior import fit_posterior
from attractor_server.training.recipe import Recipe, load_recipe
from attractor_server.training.run_log import RunLog, Show, progress_bar
from attractor_server.training.trainer import Phase, Progress, Trainer
from attractor_server.training.validation import Task, calibrate, calibrate_own, fill_gaps, fit_ridge, validate
from attractor_server.training.workers import ALONE, Team

CONTROL = "-control"
"""Ends the name of a network that was trained without writes"""
_SITTING = ("recipe", "workers", "device", "phases")
"""Keys of a record that a run which starts from this model also carries"""
Bar: TypeAlias = Callable[[], AbstractContextManager[Show]]
"""Opens a display of progress, once for each phase"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run."""

    output: Path
    run_dir: Path
    budget_s: float
    """Seconds for the run as a whole: a resumed run spends the rest of them"""
    seed: int | None = None
    """Seed that goes before the recipe's"""
    control: bool = False
    """Train the same network without writes, to see what it can do without a memory"""
    parent: str | None = None
    """A model to start from rather than anew: a file, or the name of one that ships"""
    resume: bool = True
    device: str = "cpu"
    """Device of the network in training; validation data stay on the processor"""
    show_progress: bool = True


def train(recipe_path: Path, options: Options, *, team: Team = ALONE, bar: Bar | None = None) -> Model:
    """Train the recipe's model, saving as it goes, and write `output/NAME.safetensors`.

    Every worker of a team calls it. Worker 0 writes the files; the others return the model as it was trained.

    Raises:
        ModelFileError: the parent is no model.
        SettingsError: the recipe or the budget cannot be meant, `run_dir` holds a run of another recipe, or the parent
            is not a model of this one's network.
    """
    recipe = recipe_of(recipe_path, options)
    parent = open_model(options.parent) if options.parent else None
    bar = bar or partial(progress_bar, visible=options.show_progress)
    data, held_out = (load_dataset(recipe.data.name, split) for split in ("train", "validation"))
    device = device_of(options.device)
    # Start from an untrained model, or from the parent's tensors.
    model = initialize_model(recipe, data)
    model = (model if parent is None else inherit_parameters(parent, recipe, model)).to(device)
    # Train the network, then its eraser.
    augmented, reports = _augment(recipe, data).to(device), []
    for phase, share in _phases(recipe, control=options.control):
        if phase.objective is erasing_losses:
            model = start_eraser(model, data.to(device), recipe)
        model, progress = _run_phase(recipe, model, (augmented, held_out), phase, options, share, team, bar)
        reports.append({"phase": phase.name, "steps": progress.step, "wall_s": round(progress.elapsed_s, 1)})
        reports[-1]["skipped"] = progress.skipped
    # Calibrate, validate and save, on worker 0 alone.
    here = model.to(torch.device("cpu"))
    if team.rank:
        return here
    calibration = None if options.control else calibrate(model, held_out, recipe)
    own = None if options.control else calibrate_own(model, held_out, recipe)
    posterior = None if options.control else fit_posterior(here, data, held_out, recipe)
    origin = {} if parent is None else {"parent": _origin(parent)}
    record = (
        {"workers": team.size, "device": device.type}
        | origin
        | _record(recipe, reports, _figures(recipe, model, data, held_out))
    )
    here = replace(here, calibration=calibration, own_calibration=own, posterior=posterior, record=record)
    return save_model(here, options.output / f"{recipe.name}{SUFFIX}")


def _augment(recipe: Recipe, data: Source) -> Source:
    table = recipe.data
    data = Warped(data, table.warped) if table.warped else data
    return Alike(data, table.alike) if table.alike else data


def device_of(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        SettingsError: there is none of that name here.
    """
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError(f"device: saw {name!r}; expected one that is here, as cpu or cuda ({reason})") from error
    return device


def recipe_of(path: Path, options: Options) -> Recipe:
    """Return the recipe as these options ask for it, the model's name included.

    Raises:
        SettingsError: the recipe cannot be meant.
    """
    recipe = load_recipe(path, seed=options.seed)
    if not options.control:
        return recipe
    return recipe.model_copy(update={"name": recipe.name + CONTROL, "eraser": None})


def _phases(recipe: Recipe, *, control: bool) -> Sequence[tuple[Phase, float]]:
    """Return the phases in their order, each with its share of the time."""
    fixed = ("eraser.",) if recipe.reader.learned else ("eraser.", "reader.log_step", "reader.momentum_logit")
    objective = memoryless_losses if control else episode_losses
    main = Phase("main", objective, lambda name: not name.startswith(fixed))
    if recipe.eraser is None:
        return [(main, 1.0)]
    eraser = Phase("eraser", erasing_losses, lambda name: name.startswith("eraser."))
    return [(main, 1 - recipe.eraser.share), (eraser, recipe.eraser.share)]


def _run_phase(  # noqa: PLR0913
    recipe: Recipe,
    start: Model,
    sources: tuple[Source, Source],
    phase: Phase,
    options: Options,
    share: float,
    team: Team,
    bar: Bar,
) -> tuple[Model, Progress]:
    augmented, held_out = sources
    trainer = Trainer(recipe, start, augmented, phase, team)
    if not (options.resume and trainer.resume(options.run_dir)):
        trainer.save(options.run_dir)
    task = Task(data=recipe.data, cues=recipe.cues, count=recipe.capacity)
    measure = partial(_measure, trainer, held_out, task)
    log = RunLog(trainer, measure, options.run_dir, phase=phase.name, writes=team.rank == 0)
    with bar() as show:
        trainer.run(
            budget_s=options.budget_s * share,
            each_step=lambda progress: show(progress, log.update(progress)),
        )
    trainer.save(options.run_dir)
    log.measure(trainer.progress)
    return trainer.model, trainer.progress


def _measure(trainer: Trainer, held_out: Source, task: Task) -> Mapping[str, float]:
    return validate(trainer.model, held_out, task)


def _figures(recipe: Recipe, model: Model, data: Source, held_out: Source) -> dict[str, dict[str, float]]:
    """Return figures on validation data, by kind of cue and size of chunk."""
    figures = {}
    for table in recipe.cues:
        ridge = fit_ridge(data, [table], partial(fill_gaps, model))
        for chunk in sorted({1, min(8, recipe.capacity), recipe.capacity}):
            task = Task(data=recipe.data, cues=[table], count=recipe.capacity, chunk=chunk)
            figures[f"{table.label}, chunks of {chunk}"] = validate(model, held_out, task, ridge=ridge)
    return figures


def _origin(parent: Model) -> dict[str, object]:
    """Return a record's entry on the model that a run started from, and on those before it."""
    told = {key: parent.record[key] for key in (*_SITTING, "parent") if key in parent.record}
    return {"name": parent.name, "digest": parent.digest, **told}


def _record(
    recipe: Recipe, phases: Sequence[Mapping[str, object]], figures: Mapping[str, Mapping[str, float]]
) -> dict[str, object]:
    first = figures[f"{recipe.cues[0].label}, chunks of 1"]
    metric = recipe.data.metric
    return {
        "recipe": recipe.as_record(),
        "phases": phases,
        "rated": {"metric": metric, "cue": recipe.cues[0].label, "value": first[f"{metric}_recalled"]},
        "validation": figures,
        "torch": str(torch.__version__),
    }
