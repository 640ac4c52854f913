"""Runs that start from what another model has learned, by the same recipe or by one that asks for something else."""

import math
from pathlib import Path

import pytest
import torch
from tests.support.tiny_training import TOML, trainer, write_recipe

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import save_model
from attractor_server.errors import SettingsError
from attractor_server.training import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parents")


@pytest.fixture(scope="module")
def parent(folder: Path) -> Model:
    """In a file of the folder: after some steps on stripes, far from where a run on glyphs would start."""
    taught = trainer(steps=20)
    taught.run(budget_s=math.inf, each_step=lambda _: None)
    return save_model(taught.model, folder / "parent.safetensors")


@pytest.fixture(scope="module")
def child(folder: Path, parent: Model) -> Model:
    return go_on(folder / "child", folder / "parent.safetensors")


def go_on(folder: Path, parent: Path | str, changes: dict[str, str] | None = None) -> Model:
    """One step from what the parent has learned."""
    folder.mkdir(exist_ok=True)
    text = TOML.replace("steps = 60", "steps = 1")
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    options = run.Options(
        output=folder / "out", run_dir=folder / "run", budget_s=600, parent=str(parent), show_progress=False
    )
    return run.train(write_recipe(folder, text), options)


def test_a_run_may_start_from_what_another_model_has_learned(parent: Model, child: Model) -> None:
    learned, before = child.parameters.flat(), parent.parameters.flat()
    assert max(float((learned[name] - before[name]).abs().max()) for name in before if "eraser" not in name) < 1e-3
    assert torch.equal(child.transform.shift, parent.transform.shift)
    assert child.digest != parent.digest


def test_the_record_tells_of_the_parent_and_of_those_before_it(
    tmp_path: Path, folder: Path, parent: Model, child: Model
) -> None:
    assert child.record["parent"] == {"name": "tiny", "digest": parent.digest}
    file = folder / "child" / "out" / "tiny.safetensors"
    grandchild = go_on(tmp_path, file, {"share = 0.6": "share = 0.5"})
    told = {key: child.record[key] for key in ("recipe", "workers", "device", "phases", "parent")}
    assert grandchild.record["parent"] == {"name": "tiny", "digest": child.digest, **told}


def test_a_run_is_resumed_from_the_parent_that_it_was_begun_from(folder: Path, parent: Model, child: Model) -> None:
    assert go_on(folder / "child", folder / "parent.safetensors").digest == child.digest
    told = rf"parent: saw {child.digest}; expected {parent.digest}, from which the run"
    with pytest.raises(SettingsError, match=told):
        go_on(folder / "child", folder / "child" / "out" / "tiny.safetensors")


@pytest.mark.parametrize(
    ("other", "changes", "told"),
    [
        ("binary-128", {}, r"parent: saw binary-128 with fields .* expected .*28, 28.*, as tiny"),
        ("", {"features = 24": "features = 20"}, r"parent: saw tiny with network .*features=24.*expected.*=20"),
        (
            "",
            {"steps = 3\n\n[eraser]": "steps = 5\n\n[eraser]"},
            r"saw tiny with reader.log_step \(3,\); expected \(5,\)",
        ),
        ("nowhere", {}, r"model: saw 'nowhere', which is no file; expected a path, or one of \['binary-128'"),
    ],
)
def test_a_parent_of_another_kind_is_refused(
    tmp_path: Path, folder: Path, parent: Model, other: str, changes: dict[str, str], told: str
) -> None:
    assert parent.name == "tiny"
    with pytest.raises(SettingsError, match=told):
        go_on(tmp_path, other or folder / "parent.safetensors", changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wish", "changes_it"), [("warped = 1.0", True), ("alike = 1.0", True), ("alike = 0.0", False)]
)
def test_a_recipe_may_ask_for_images_that_are_warped_or_alike(
    tmp_path: Path, folder: Path, child: Model, wish: str, changes_it: bool
) -> None:
    other = go_on(tmp_path, folder / "parent.safetensors", {'metric = "mse"': f'metric = "mse"\n{wish}'})
    one, plain = other.parameters.flat(), child.parameters.flat()
    assert one.keys() == plain.keys()
    assert torch.equal(one["slow.A"], plain["slow.A"]) is not changes_it
