"""Recipes: read as they are written, or refused with what was seen and what was expected."""

import re
from pathlib import Path

import pytest
from tests.training.tiny import RECIPE, TOML, write_recipe

from attractor_server.errors import SettingsError
from attractor_server.training.recipe import find_recipe, load_recipe


def test_a_recipe_is_read_entry_by_entry(tmp_path: Path) -> None:
    assert load_recipe(write_recipe(tmp_path)) == RECIPE


def test_a_whole_number_stands_for_a_fraction(tmp_path: Path) -> None:
    text = TOML.replace("gradient_limit = 1.0", "gradient_limit = 1")
    assert load_recipe(write_recipe(tmp_path, text)) == RECIPE


@pytest.mark.parametrize(
    ("entry", "instead", "message"),
    [
        ("features = 24", 'features = "many"', "network.features: saw 'many'; expected int"),
        ("features = 24", "features = 2.5", "network.features: saw 2.5; expected int"),
        ("features = 24", "features = true", "network.features: saw True; expected int"),
        ("features = 24", "features = 0", "network.features: saw 0; expected more than 0"),
        ("rate = 5e-3", "rate = -1.0", "optimizer.rate: saw -1.0; expected more than 0"),
        ("rate = 5e-3", "rate = nan", "optimizer.rate: saw nan; expected more than 0"),
        ("told_share = 0.3", "told_share = 1.5", "episodes.told_share: saw 1.5; expected between 0 and 1"),
        ("decay_from = 0.7", "decay_from = 1.0", "optimizer.decay_from: saw 1.0; expected at least 0 and below 1"),
        ('kind = "quadratic"', 'kind = "cubic"', "network.kind: saw 'cubic'; expected 'quadratic'"),
        ("steps = 60", "", "optimizer.steps: missing; expected int"),
        ("steps = 60", "stepps = 60", "optimizer.stepps: unknown entry; expected one of"),
        ("capacity = 4", "capacity = []", "capacity: saw []; expected int"),
        ("[optimizer]", "[optimiser]", "saw no table [optimizer]; expected one"),
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
