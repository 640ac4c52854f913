"""Recipes: read as they are written, or refused with what was seen and what was expected."""

import math
import re
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from tests.support.tiny_training import MAIN, RECIPE, TOML, stripes, write_recipe
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import DATASETS, load_dataset
from attractor_server.training.distortions import distort
from attractor_server.training.initialization import initialize_model
from attractor_server.training.recipe import find_recipe, load_recipe
from attractor_server.training.trainer import Trainer

SHIPPED = Path(str(files("attractor_server"))) / "recipes"


def test_a_recipe_is_read_entry_by_entry(tmp_path: Path) -> None:
    assert load_recipe(write_recipe(tmp_path)) == RECIPE


def test_a_cue_may_be_distorted_several_times_over(tmp_path: Path) -> None:
    further = 'then = [{ kind = "noise", amount = 0.2 }, { kind = "clean" }]\n'
    (block, _) = load_recipe(write_recipe(tmp_path, TOML.replace("told = 0.3\n", "told = 0.5\n" + further, 1))).cues
    assert [(one.kind, one.amount) for one in block.then] == [("noise", 0.2), ("clean", 1.0)]
    assert (block.told, block.label) == (0.5, "block+noise+clean")


def test_a_whole_number_stands_for_a_fraction(tmp_path: Path) -> None:
    text = TOML.replace("gradient_limit = 1.0", "gradient_limit = 1")
    assert load_recipe(write_recipe(tmp_path, text)) == RECIPE


@pytest.mark.parametrize(
    ("entry", "instead", "message"),
    [
        ("memories = 4", 'memories = "many"', "episodes.memories: saw 'many'; expected a valid integer"),
        ("memories = 4", "memories = 2.5", "episodes.memories: saw 2.5; expected a valid integer"),
        ("memories = 4", "memories = true", "episodes.memories: saw True; expected a valid integer"),
        ("memories = 4", "memories = 0", "episodes.memories: saw 0; expected greater than 0"),
        ("rate = 5e-3", "rate = -1.0", "optimizer.rate: saw -1.0; expected greater than 0"),
        ("rate = 5e-3", "rate = nan", "optimizer.rate: saw nan; expected a finite number"),
        ("told = 0.3", "told = 1.5", "cues.0.told: saw 1.5; expected less than or equal to 1"),
        ("decay_from = 0.7", "decay_from = 1.0", "optimizer.decay_from: saw 1.0; expected less than 1"),
        ('kind = "block"', 'kind = "blocks"', "cues.0.kind: saw 'blocks'; expected 'block'"),
        ("told = 0.3", "then = [{ amount = 1 }]", "cues.0.then.0.kind: missing; expected one"),
        ("told = 0.3", 'then = [{ kind = "noise", told = 1 }]', "cues.0.then.0.told: unknown entry"),
        ("capacity = 4", "", "capacity: missing; expected one"),
        ("steps = 60", "stepps = 60", "optimizer.stepps: unknown entry"),
        ("capacity = 4", "capacity = []", "capacity: saw []; expected a valid integer"),
        ("[optimizer]", "[optimiser]", "optimiser: unknown entry"),
        ("[optimizer]", "[optimizer", "not TOML"),
    ],
)
def test_a_refusal_names_the_file_the_entry_what_was_seen_and_what_was_expected(
    tmp_path: Path, entry: str, instead: str, message: str
) -> None:
    assert entry in TOML
    path = write_recipe(tmp_path, TOML.replace(entry, instead, 1))
    with pytest.raises(SettingsError, match=re.escape(message)) as refusal:
        load_recipe(path)
    assert str(path) in refusal.value.message


def test_a_recipe_that_ships_is_found_by_its_file_name(tmp_path: Path) -> None:
    found = find_recipe(tmp_path / "recipes" / "glyphs-28.toml")
    assert load_recipe(found).name == "glyphs-28"


def test_a_file_comes_before_the_recipe_that_ships_under_its_name(tmp_path: Path) -> None:
    own = tmp_path / "glyphs-28.toml"
    own.write_text(TOML)
    assert find_recipe(own) == own


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"saw 'nowhere/x\.toml'.*expected.*glyphs-28\.toml"):
        find_recipe(Path("nowhere/x.toml"))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"kind": "cubic"}, "network kind 'cubic'; this version knows"),
        ({"features": 4}, "network.kind: saw nothing; expected one of"),
        ({"kind": "quadratic", "features": 0}, "network.features: saw 0; expected a whole number from 1 on"),
        (
            {"kind": "bilinear", "keys": 2, "values": 2, "entrywise": 1},
            "network.entrywise: saw 1; expected true or fal",
        ),
        (
            {"kind": "bilinear", "keys": 2, "values": 2, "waves": 3},
            "waves: saw 3; expected at most 2, one for each key",
        ),
        ({"kind": "bilinear", "keys": 2, "values": 9000, "entrywise": True}, "values: saw 9000; expected at most"),
        ({"kind": "quadratic", "features": 2.5}, "network.features: saw 2.5; expected a whole number from 1 on"),
        ({"kind": "quadratic", "wings": 2}, "unexpected keyword argument 'wings'"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(network: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        initialize_model(RECIPE.model_copy(update={"network": network}), stripes())


def test_more_components_than_there_are_values_are_refused() -> None:
    recipe = RECIPE.model_copy(update={"input": RECIPE.input.model_copy(update={"components": 785})})
    with pytest.raises(SettingsError, match=r"input\.components: saw 785; expected at most 128"):
        initialize_model(recipe, stripes())


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_names_data_a_field_and_cues_that_exist(path: Path) -> None:
    recipe = load_recipe(path)
    assert path.stem == recipe.name
    assert recipe.data.name in DATASETS
    data = load_dataset(recipe.data.name, "validation")
    assert recipe.data.field in {"", *(field.name for field in data.layout.fields)}
    patterns, generator = data.sample(1, 20, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    made = distort(patterns, data.layout, recipe.cues, generator, drifts=data.drifts)
    assert made.values.shape == patterns.shape


@pytest.mark.parametrize("name", ["glyphs-28-large", "patches-rgb-32-large"])
def test_a_recipe_for_a_gpu_takes_a_step_on_a_processor_too(name: str) -> None:
    recipe = load_recipe(SHIPPED / f"{name}.toml")
    changes = {
        "network": recipe.network | {"channels": 4, "blocks": 1, "keys": 16, "values": 32},
        "input": recipe.input.model_copy(update={"components": 64}),
        "reader": recipe.reader.model_copy(update={"steps": 2}),
        "episodes": recipe.episodes.model_copy(update={"patterns_limit": 8, "memories": 2, "cues": 4}),
        "optimizer": recipe.optimizer.model_copy(update={"steps": 1}),
    }
    recipe, data = recipe.model_copy(update=changes), load_dataset(recipe.data.name, "validation")
    start = initialize_model(recipe, data)
    assert_lifted(start, data.pool(3))
    trainer = Trainer(recipe, start, data, MAIN)
    trainer.run(budget_s=math.inf, each_step=lambda progress: None)
    assert (trainer.progress.step, trainer.progress.skipped) == (1, 0)
    assert math.isfinite(trainer.progress.loss)
    kernel = "slow.conv.kernel"
    assert not torch.equal(trainer.model.parameters.flat()[kernel], start.parameters.flat()[kernel])


def assert_lifted(model: Model, patterns: Tensor) -> None:
    """The network sees images with their colours apart, centred."""
    x, shape = model.encode(patterns), (*model.layout.fields[0].shape, 1)[:3]
    seen = (x @ model.parameters.slow["lift"]).unflatten(-1, (shape[2], *shape[:2]))
    meant = (model.transform.decode(x) + model.transform.shift).unflatten(-1, shape).movedim(-1, -3)
    torch.testing.assert_close(seen, meant, rtol=1e-3, atol=1e-4)
