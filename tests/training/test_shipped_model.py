"""The models that ship, on test data that they have never seen."""

from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import pytest

from attractor_server.energy.model import Model, load_model
from attractor_server.training.datasets import load_dataset
from attractor_server.training.evaluation import HIGHER_IS_BETTER
from attractor_server.training.recipe import Recipe, find_recipe, load_recipe
from attractor_server.training.validation import Task, filled, fit_ridge, validate

FILES = sorted((Path(str(files("attractor_server"))) / "models").glob("*.safetensors"))
each_model = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@cache
def shipped(path: Path) -> tuple[Model, Recipe]:
    return load_model(path), load_recipe(find_recipe(Path(f"{path.stem}.toml")))


@cache
def figures(path: Path, chunk: int) -> dict[str, float]:
    """On test data, 16 memories of as many patterns as the model is rated for, with the first kind of cue."""
    model, recipe = shipped(path)
    train, test = (load_dataset(recipe.data.name, split) for split in ("train", "test"))
    task = Task(data=recipe.data, cues=recipe.cues[:1], count=model.capacity, chunk=chunk)
    ridge = fit_ridge(train, recipe.cues[:1], partial(filled, model), rounds=1)
    found = validate(model, test, task, ridge=ridge)
    metric = recipe.data.metric
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    return {name.removeprefix(f"{metric}_"): sign * value if metric in name else value for name, value in found.items()}


@each_model
@pytest.mark.parametrize("chunk", [1, 8])
def test_it_recalls_better_than_the_cue_than_a_ridge_and_than_without_writing(path: Path, chunk: int) -> None:
    found = figures(path, chunk)
    assert found["recalled"] < min(found["cue"], found["ridge"], found["no_write"])


@each_model
def test_what_it_recalls_is_rarely_taken_for_another_pattern(path: Path) -> None:
    assert figures(path, 1)["id_recalled"] >= 0.9


@each_model
def test_its_delta_energy_tells_stored_from_unseen(path: Path) -> None:
    assert figures(path, 1)["auroc"] >= 0.95


@each_model
def test_its_file_is_small_and_says_how_it_was_made(path: Path) -> None:
    model, recipe = shipped(path)
    assert path.stat().st_size < 4_000_000
    if "phases" in model.record:
        assert model.record["recipe"] == recipe.as_record()
        assert {"rated", "validation", "torch"} <= model.record.keys()
    else:  # a file of format 1, whose recipe had other tables
        assert {"steps", "wall_s", "skipped", "validation", "torch"} <= model.record.keys()
        assert {"inputs": recipe.input.components, **recipe.network} == {
            "kind": model.network.kind,
            **model.network.config,
        }


def test_every_model_that_ships_has_its_recipe() -> None:
    assert FILES
    assert [path for path in FILES if not find_recipe(Path(f"{path.stem}.toml")).is_file()] == []
