"""Adapting a vector model to another source: what is fitted, what stays, and what is refused."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.support.tiny_training import MAIN, TOML
from torch import Generator, Tensor

from attractor_server.cli.main import main
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.adapt import Mixture, adapt_model
from attractor_server.training.datasets import Dataset
from attractor_server.training.datasets.drifts import measure_drifts
from attractor_server.training.initialization import initialize_model
from attractor_server.training.model_lookup import recipe_of
from attractor_server.training.recipe import CueTable, DataTable, Recipe
from attractor_server.training.trainer import Trainer
from attractor_server.training.validation import Task, validate

WIDTH = 24
CUE = CueTable(kind="missing", amount=0.5, told=1.0)
RECIPE = Recipe.model_validate(tomllib.loads(TOML)).model_copy(
    update={
        "data": DataTable(name="sentences", metric="cosine"),
        "cues": [CUE, CueTable(kind="noise", share=0.3, amount=0.05)],
        "network": {"kind": "bilinear", "keys": 16, "values": 24},
    }
)


def vectors(seed: int, *, factor: float = 1.0, offset: float = 0.0) -> Tensor:
    """Points of a Gaussian with a spectrum and axes of its own."""
    generator = Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    spectrum = torch.linspace(1.0, 0.2, WIDTH)
    points: Tensor = (torch.randn(2000, WIDTH, generator=generator) * spectrum) @ axes.T
    return factor * points + offset


def source(patterns: Tensor) -> Dataset:
    field = Field(name="embedding", kind="vector", shape=(WIDTH,))
    return Dataset(Layout((field,)), patterns, torch.arange(len(patterns)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Trained on one source."""
    return trained(vectors(0), tmp_path_factory.mktemp("model"))


def trained(patterns: Tensor, folder: Path) -> Model:
    data = source(patterns)
    recipe = RECIPE.model_copy(update={"input": RECIPE.input.model_copy(update={"components": WIDTH})})
    trainer = Trainer(recipe, initialize_model(recipe, data), data, MAIN)
    trainer.run(budget_s=float("inf"), each_step=lambda progress: None)
    made = replace(trainer.model, record={"recipe": recipe.as_record()})
    return save_model(made, folder / "vectors.safetensors")


def cosine(model: Model, patterns: Tensor) -> float:
    task = Task(data=RECIPE.data, cues=[CUE], count=4)
    return validate(model, source(patterns), task)["cosine_recalled"]


def test_a_model_is_as_good_on_another_source_once_it_is_adapted(model: Model) -> None:
    own, other = vectors(0), vectors(1, factor=20.0)
    fitted = adapt_model(model, other[:1000])
    assert cosine(model, other[1000:]) < cosine(model, own) - 0.1
    assert cosine(fitted, other[1000:]) > cosine(model, own) - 0.03
    assert model.posterior is None
    assert fitted.posterior is not None


def test_each_entry_has_the_deviation_that_the_network_was_trained_for(model: Model) -> None:
    other = vectors(1, factor=20.0, offset=30.0)
    wanted, found = model.encode(vectors(0)).std(0), adapt_model(model, other).encode(other).std(0)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_directions_that_the_training_data_lacked_do_no_harm(tmp_path: Path) -> None:
    axes = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=Generator().manual_seed(5))).Q
    flat = (vectors(0) @ axes) * torch.tensor([1.0] * (WIDTH - 3) + [1e-5] * 3)
    fitted = adapt_model(trained(flat, tmp_path), vectors(1)[:1000])
    assert cosine(fitted, vectors(1)[1000:]) > 0.9


def test_the_network_is_left_as_it_was_and_the_file_says_what_it_came_from(model: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", vectors(1).numpy())
    save_model(model, tmp_path / "vectors.safetensors")
    result = run(tmp_path / "vectors.safetensors", tmp_path / "samples.npy", "--output", tmp_path, "--name", "ours")
    assert result[0] == 0
    fitted = load_model(tmp_path / "ours.safetensors")
    assert all(torch.equal(value, model.parameters.flat()[name]) for name, value in fitted.parameters.flat().items())
    assert fitted.name == "ours"
    assert fitted.calibration is not None
    assert fitted.record["adapted"] == {
        "from": {"name": "tiny", "digest": model.digest},
        "to": {"samples": 2000, "deviation": pytest.approx(float(vectors(1).var(0).sum().sqrt()))},
    }


def test_a_model_adapted_to_a_mixture_is_worse_for_no_kind_of_cue_and_is_calibrated_on_all(model: Model) -> None:
    samples, generator = vectors(1, factor=20.0), Generator().manual_seed(2)
    others = samples[:500] + 0.5 * samples[torch.randperm(2000, generator=generator)[:500]]
    plain, mixed = (adapt_model(model, samples, mixture=mixture) for mixture in (None, Mixture(others=others)))
    recipe = recipe_of(mixed)
    assert [(cue.kind, cue.told) for cue in recipe.cues] == [
        ("missing", 0.5),
        ("noise", 0.0),
        ("drift", 0.0),
        ("clean", 0.0),
    ]
    assert mixed.calibration is not None
    assert plain.calibration is not None
    assert not torch.equal(mixed.calibration.weights, plain.calibration.weights)
    held_out = replace(source(samples), drifts=measure_drifts(samples[:500], others))
    for cue in (*recipe.cues, CUE):
        task = Task(data=RECIPE.data, cues=[cue], count=4)
        before, after = (1 - validate(one, held_out, task)["cosine_recalled"] for one in (plain, mixed))
        assert after < 1.05 * before, cue


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (torch.ones(3, 7), f"others: saw shape (3, 7); expected (m, {WIDTH}), a row for each of the first m of 2000"),
        (torch.ones(2001, WIDTH), "others: saw shape (2001, 24)"),
        (torch.full((3, WIDTH), torch.nan), "others: saw a value that is not finite"),
    ],
)
def test_other_wordings_that_do_not_fit_the_samples_are_refused(model: Model, others: Tensor, told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        adapt_model(model, vectors(1), mixture=Mixture(others=others))


def test_the_command_takes_other_wordings(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "vectors.safetensors")
    np.save(tmp_path / "samples.npy", vectors(1).numpy())
    np.save(tmp_path / "others.npy", (vectors(1) + 0.2 * vectors(3))[:100].numpy())
    asked = (tmp_path / "vectors.safetensors", tmp_path / "samples.npy", "--output", tmp_path, "--name", "ours")
    code, _, said = run(*asked, "--wordings", tmp_path / "others.npy")
    assert code == 0, said
    assert "drift" in {cue.kind for cue in recipe_of(load_model(tmp_path / "ours.safetensors")).cues}


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (np.zeros((100, 7), np.float32), f"samples: saw shape (100, 7); expected (n, {WIDTH})"),
        (np.zeros(WIDTH, np.float32), f"samples: saw shape ({WIDTH},); expected (n, {WIDTH})"),
        (np.ones((5, WIDTH), np.float32), f"samples: saw 5 of them; expected at least {WIDTH + 1}"),
        (np.ones((99, WIDTH), np.float32), "samples: saw the same vector in every row"),
        (np.full((99, WIDTH), np.nan), "samples: saw a value that is not finite in row 0"),
        (np.full((99, WIDTH), "a"), "expected one array of numbers"),
    ],
)
def test_samples_that_do_not_fit_are_refused_and_nothing_is_written(
    model: Model, tmp_path: Path, samples: object, told: str
) -> None:
    np.save(tmp_path / "samples.npy", np.asarray(samples))
    save_model(model, tmp_path / "vectors.safetensors")
    code, _, error = run(tmp_path / "vectors.safetensors", tmp_path / "samples.npy", "--output", tmp_path / "out")
    assert code == 2
    assert told in error
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_of_numpy_and_what_is_no_model_of_vectors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "samples.npy").write_text("one, two")
    assert "expected a NumPy file (.npy)" in run("embedding-384", tmp_path / "samples.npy")[2]
    np.save(tmp_path / "samples.npy", np.zeros((9, 784)))
    assert "expected a model of vectors" in run("glyphs-28", tmp_path / "samples.npy")[2]


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["adapt", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr
