"""A recipe and a data set so small that a test can train with them."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Generator

from attractor_server.energy.model import Model
from attractor_server.fields import Layout
from attractor_server.training.datasets import IMAGE, Dataset, Source
from attractor_server.training.eraser import erasing_losses
from attractor_server.training.evaluation.scores import Row
from attractor_server.training.initialization import initialize_model
from attractor_server.training.objective import episode_losses
from attractor_server.training.recipe import Recipe
from attractor_server.training.trainer import Phase, Trainer
from attractor_server.training.workers import ALONE, Team

TOML = """
name = "tiny"
capacity = 4
seed = 1

[data]
name = "glyphs"
metric = "mse"

[input]
components = 32
whitening = 0.5

[network]
kind = "quadratic"
features = 24

[writer]
steps = 2

[reader]
steps = 3

[eraser]
steps = 2
share = 0.5
patterns = 2

[episodes]
patterns_least = 1
patterns_limit = 8
singly_share = 0.5
memories = 4
cues = 4

[[cues]]
kind = "block"
share = 0.6
amount = 14
told = 0.3

[[cues]]
kind = "noise"
share = 0.4
amount = 0.3

[optimizer]
steps = 60
rate = 5e-3
feature_rate = 1e-3
loop_rate = 1e-2
decay_from = 0.7
gradient_limit = 1.0
familiarity_weight = 0.05
"""
RECIPE = Recipe.model_validate(tomllib.loads(TOML))
MAIN = Phase("main", episode_losses, lambda name: not name.startswith("eraser."))
ERASER = Phase("eraser", erasing_losses, lambda name: name.startswith("eraser."))


def write_recipe(folder: Path, text: str = TOML) -> Path:
    """A file with that recipe."""
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def stripes() -> Dataset:
    """64 classes of two images each: random bars on a dark ground."""
    generator = Generator().manual_seed(0)
    rows = torch.rand(64, 28, generator=generator) < 0.3
    images = rows[:, :, None].float().expand(64, 28, 28).flatten(1)
    classes = torch.arange(64).repeat_interleave(2)
    noise = 0.025 * torch.randn(128, 784, generator=generator)
    return Dataset(Layout((IMAGE,)), images[classes] + noise, classes)


def many_stripes(split: str) -> Source:
    """As many that a quantiser can be fitted."""
    data = stripes()
    patterns, classes = (x.repeat_interleave(2, 0) for x in (data.patterns, data.classes))
    noise = 0.02 * torch.randn(patterns.shape, generator=Generator().manual_seed(1))
    return Dataset(data.layout, patterns + noise, classes)


def trainer(
    *,
    steps: int = RECIPE.optimizer.steps,
    data: Dataset | None = None,
    name: str = "tiny",
    network: str = "quadratic",
    team: Team = ALONE,
) -> Trainer:
    """A trainer at its first step."""
    optimizer = RECIPE.optimizer.model_copy(update={"steps": steps})
    bilinear = {"kind": "bilinear", "keys": 24, "values": 32}
    networks = {
        "quadratic": RECIPE.network,
        "bilinear": bilinear,
        "bounded": {**bilinear, "waves": 16, "bounded": True},
    }
    recipe = RECIPE.model_copy(update={"name": name, "optimizer": optimizer, "network": networks[network]})
    return Trainer(recipe, initialize_model(recipe, stripes()), data or stripes(), MAIN, team)


def spoilt(data: Dataset, factor: float) -> Dataset:
    """The same patterns times a factor."""
    return replace(data, patterns=data.patterns * factor)


def trained_model() -> Model:
    """The model of a short training, with its recipe in its record."""
    trained = trainer(steps=150)
    trained.run(budget_s=math.inf, each_step=lambda progress: None)
    return replace(trained.model, record={"recipe": RECIPE.as_record()})


def of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    """The rows of a table of quality that have these values."""
    return [row for row in rows if wanted.items() <= asdict(row).items()]


def seeded() -> Generator:
    return Generator().manual_seed(0)
