"""A recipe and a data set so small that a test can train with them."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator

from attractor_server.training.episodes import Dataset
from attractor_server.training.meta import Trainer
from attractor_server.training.recipe import EpisodesTable, NetworkTable, OptimizerTable, Recipe
from attractor_server.training.start import initial_parameters

TOML = """
name = "tiny"
capacity = 4
seed = 1

[network]
kind = "quadratic"
components = 32
whitening = 0.5
features = 24
writing_steps = 2
reading_steps = 3

[episodes]
dataset = "glyphs"
patterns_least = 1
patterns_limit = 8
singly_share = 0.5
memories = 4
cues = 4
block_share = 0.6
told_share = 0.3

[optimizer]
steps = 60
rate = 5e-3
feature_rate = 1e-3
loop_rate = 1e-2
decay_from = 0.7
gradient_limit = 1.0
familiarity_weight = 0.05
"""

RECIPE = Recipe(
    name="tiny",
    capacity=4,
    seed=1,
    network=NetworkTable(kind="quadratic", components=32, whitening=0.5, features=24, writing_steps=2, reading_steps=3),
    episodes=EpisodesTable(
        dataset="glyphs",
        patterns_least=1,
        patterns_limit=8,
        singly_share=0.5,
        memories=4,
        cues=4,
        block_share=0.6,
        told_share=0.3,
    ),
    optimizer=OptimizerTable(
        steps=60,
        rate=5e-3,
        feature_rate=1e-3,
        loop_rate=1e-2,
        decay_from=0.7,
        gradient_limit=1.0,
        familiarity_weight=0.05,
    ),
)


def write_recipe(folder: Path, text: str = TOML) -> Path:
    """A file with that recipe."""
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def stripes() -> Dataset:
    """64 classes of two images each: random bars on a dark ground."""
    generator = Generator().manual_seed(0)
    rows = torch.rand(64, 28, generator=generator) < 0.3
    images = torch.where(rows[:, :, None], 1.0, -1.0).expand(64, 28, 28).flatten(1)
    classes = torch.arange(64).repeat_interleave(2)
    return Dataset(images[classes] + 0.05 * torch.randn(128, 784, generator=generator), classes)


def trainer(*, steps: int = RECIPE.optimizer.steps, data: Dataset | None = None, name: str = "tiny") -> Trainer:
    """A trainer at its first step."""
    recipe = replace(RECIPE, name=name, optimizer=replace(RECIPE.optimizer, steps=steps))
    network, start = initial_parameters(stripes().patterns, recipe.network)
    return Trainer(recipe, network, start, data or stripes())
