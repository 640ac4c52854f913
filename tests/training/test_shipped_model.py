"""The model that ships, on glyphs of characters that it has never seen."""

from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from attractor_server.energy.model import Model, load_model
from attractor_server.training.datasets import load_dataset
from attractor_server.training.recipe import find_recipe, load_recipe
from attractor_server.training.start import blueprint_of
from attractor_server.training.validation import Distortion, Task, fit_ridge, validate

NAME = "glyphs-28"
SETTINGS: list[tuple[Distortion, int]] = [("block", 1), ("block", 8), ("block", 32), ("noise", 1)]

each_setting = pytest.mark.parametrize(("distortion", "chunk"), SETTINGS)


@cache
def shipped() -> Model:
    return load_model(file())


def file() -> Path:
    return Path(str(files("attractor_server"))) / "models" / f"{NAME}.safetensors"


@cache
def figures(distortion: Distortion, chunk: int) -> dict[str, float]:
    """On test glyphs, 16 memories of as many patterns as the model is rated for."""
    model = shipped()
    task = Task(count=model.capacity, chunk=chunk, distortion=distortion)
    ridge = fit_ridge(load_dataset("glyphs", "train").patterns, distortion=distortion, rounds=1)
    return validate(blueprint_of(model), model.parameters, load_dataset("glyphs", "test"), task, ridge=ridge)


@each_setting
def test_it_recalls_better_than_rivals_without_attractors(distortion: Distortion, chunk: int) -> None:
    found = figures(distortion, chunk)
    assert found["mse_recalled"] <= 0.5 * found["mse_cue"]
    if distortion == "block":  # by noise the nearest stored glyph is no riddle
        assert found["mse_recalled"] < min(found["mse_nearest"], found["mse_ridge"])


@each_setting
def test_what_it_recalls_is_taken_for_another_glyph_far_less_often_than_the_cue(
    distortion: Distortion, chunk: int
) -> None:
    found = figures(distortion, chunk)
    assert found["id_recalled"] >= 0.95
    assert 1 - found["id_recalled"] <= max(0.3 * (1 - found["id_cue"]), 0.01)


@each_setting
def test_its_delta_energy_tells_stored_from_unseen(distortion: Distortion, chunk: int) -> None:
    assert figures(distortion, chunk)["auroc"] >= 0.97


@each_setting
def test_without_writing_it_recalls_far_worse(distortion: Distortion, chunk: int) -> None:
    found = figures(distortion, chunk)
    assert found["mse_no_write"] > 1.5 * found["mse_recalled"]


def test_its_file_is_small_and_says_how_it_was_made() -> None:
    assert file().stat().st_size < 4_000_000
    record = shipped().record
    assert record["recipe"] == load_recipe(find_recipe(Path(f"{NAME}.toml"))).as_record()
    assert {"steps", "wall_s", "skipped", "validation", "torch"} <= record.keys()


def test_nothing_else_ships_beside_it() -> None:
    assert [path.name for path in file().parent.iterdir()] == [file().name]
