"""One recipe to one model file: train, measure on validation data, save (`attractor train`)."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from attractor_server.energy.model import SUFFIX, Model, Transform, save_model
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy
from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.baselines import Ridge, look_up
from attractor_server.training.datasets.glyphs import SIDE, Split, glyphs
from attractor_server.training.episodes import Dataset, occluded
from attractor_server.training.evaluation import auroc, identified, mean_squared_error
from attractor_server.training.meta import Progress, Trainer, write_chunks
from attractor_server.training.recipe import Recipe, load_recipe
from attractor_server.training.start import initial_parameters

IMAGE = Field(name="image", kind="image", shape=(SIDE, SIDE), minimum=-4.0, maximum=5.0)
"""Dark 0 to bright 1; the range leaves room for noise."""
VALIDATION_MEMORIES = 16
SAVE_EVERY_S = 30.0
MEASURE_EVERY_S = 60.0


def train(
    recipe_path: Path, *, output: Path, run_dir: Path, budget_s: float, resume: bool = True, show_progress: bool = True
) -> Model:
    """Trains the recipe's model, saving as it goes, and writes `output/NAME.safetensors`.

    Raises:
        SettingsError: the recipe cannot be meant, or `run_dir` holds a run of another one.
    """
    recipe = load_recipe(recipe_path)
    data = {split: load_dataset(recipe.episodes.dataset, split) for split in ("train", "validation")}
    network, start = initial_parameters(data["train"].patterns, recipe.network)
    trainer = Trainer(recipe, network, start, data["train"])
    if not (resume and trainer.resume(run_dir)):
        trainer.save(run_dir)
    journal = Journal(recipe, network, trainer, data["validation"], run_dir)
    with _bar(show_progress) as show:
        trainer.run(budget_s=budget_s, each_step=lambda progress: show(progress, journal.keep(progress)))
    trainer.save(run_dir)
    figures = validate(network, trainer.parameters, data["validation"], count=recipe.capacity, ridge=_ridge(data))
    record = {"recipe": recipe.as_record(), "steps": journal.steps, "validation": figures, "torch": torch.__version__}
    return save_model(_model(recipe, network, trainer.parameters, record), output / f"{recipe.name}{SUFFIX}")


def load_dataset(name: str, split: Split) -> Dataset:
    """Patterns of a split in network units, from -1 (dark) to 1 (bright).

    Raises:
        SettingsError: there is no such data set.
    """
    if name != "glyphs":
        raise SettingsError(f"episodes.dataset: saw {name!r}; expected 'glyphs'")
    data = glyphs(split)
    patterns = torch.from_numpy(data.images).flatten(1).float() / 127.5 - 1
    return Dataset(patterns, torch.from_numpy(data.characters))


def validate(
    network: EnergyNetwork, parameters: Parameters, data: Dataset, *, count: int, ridge: Ridge | None = None
) -> dict[str, float]:
    """Figures on the same held-out episodes each time: `count` patterns stored one at a time, cues with a block."""
    generator = Generator().manual_seed(0)
    patterns = data.sample(VALIDATION_MEMORIES, count, generator)
    unseen = data.sample(VALIDATION_MEMORIES, count, generator)
    cues, unseen_cues = occluded(patterns, generator).x, occluded(unseen, generator).x
    with torch.no_grad():
        fast, _ = write_chunks(network, parameters, patterns, [1] * count)[-1]
        recalled = read(network, parameters, fast, cues).pattern
        without = read(network, parameters, parameters.memories(VALIDATION_MEMORIES), cues).pattern
        stored_delta = delta_energy(network, parameters, fast, cues)
        unseen_delta = delta_energy(network, parameters, fast, unseen_cues)
    figures = {
        "mse_cue": mean_squared_error(cues, patterns),
        "mse_recalled": mean_squared_error(recalled, patterns),
        "mse_no_write": mean_squared_error(without, patterns),
        "mse_nearest": mean_squared_error(look_up(cues, patterns), patterns),
        "id_cue": identified(cues, patterns),
        "id_recalled": identified(recalled, patterns),
        "auroc": auroc(-stored_delta, -unseen_delta),
    }
    if ridge is not None:
        figures["mse_ridge"] = mean_squared_error(ridge.restore(cues), patterns)
    return figures


class Journal:
    """Keeps a run: saves it now and then, and appends figures on validation data to `log.jsonl`."""

    def __init__(  # noqa: PLR0913
        self, recipe: Recipe, network: EnergyNetwork, trainer: Trainer, data: Dataset, run_dir: Path
    ) -> None:
        self._recipe = recipe
        self._network = network
        self._trainer = trainer
        self._data = data
        self._run_dir = run_dir
        self._saved_s = self._measured_s = time.monotonic()
        self._figures: dict[str, float] = {}

    def keep(self, progress: Progress) -> dict[str, float]:
        """The newest figures; measures and saves where it is time to."""
        now_s = time.monotonic()
        if now_s - self._measured_s > MEASURE_EVERY_S:
            self._figures = validate(self._network, self._trainer.parameters, self._data, count=self._recipe.capacity)
            with (self._run_dir / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": progress.step, "loss": progress.loss, **self._figures}) + "\n")
            self._measured_s = time.monotonic()
        if now_s - self._saved_s > SAVE_EVERY_S:
            self._trainer.save(self._run_dir)
            self._saved_s = time.monotonic()
        return self._figures


Show = Callable[[Progress, dict[str, float]], None]


@contextlib.contextmanager
def _bar(show_progress: bool) -> Iterator[Show]:
    """A progress bar with the newest figures behind it."""
    if not show_progress:
        yield lambda progress, figures: None
        return
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    words = TextColumn("{task.description}")
    with Bar(words, BarColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("training", total=1.0)

        def show(progress: Progress, figures: dict[str, float]) -> None:
            parts = [f"step {progress.step}", f"loss {progress.loss:.4f}", f"skipped {progress.skipped}"]
            chosen = ("mse_recalled", "mse_no_write", "auroc")
            parts += [f"{name} {figures[name]:.4f}" for name in chosen if name in figures]
            bar.update(task, completed=progress.share, description="  ".join(parts))

        yield show


def _ridge(data: dict[str, Dataset]) -> Ridge:
    return fit_ridge(data["train"].patterns)


def fit_ridge(patterns: Tensor, *, rounds: int = 3, seed: int = 0) -> Ridge:
    """The memoryless denoiser of cues with a block, fitted to training patterns (n, d)."""
    generator = Generator().manual_seed(seed)
    cues = torch.cat([occluded(patterns, generator).x for _ in range(rounds)])
    return Ridge.fit(cues, patterns.repeat(rounds, 1))


def _model(recipe: Recipe, network: EnergyNetwork, parameters: Parameters, record: dict[str, object]) -> Model:
    size = IMAGE.size
    return Model(
        name=recipe.name,
        layout=Layout((IMAGE,)),
        network=network,
        parameters=parameters,
        transform=Transform(scale=torch.full((size,), 2.0), shift=torch.full((size,), -1.0)),
        capacity=recipe.capacity,
        record=record,
    )
