"""Runs: from a recipe to a model file; interrupted, resumed, ended by time, and robust against bad steps."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.tiny_training import ERASER, MAIN, RECIPE, spoilt, stripes, trainer, write_recipe
from torch import Generator, Tensor

from attractor_server.energy.eraser import initial_eraser
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.energy.reader import read
from attractor_server.errors import SettingsError
from attractor_server.training import run
from attractor_server.training.datasets import Dataset
from attractor_server.training.distortions import distort
from attractor_server.training.eraser import REHEARSALS, UPS, erasing_losses, start_eraser
from attractor_server.training.initialization import initialize_model
from attractor_server.training.objective import episode_losses, identity_error, read_cues
from attractor_server.training.recipe import Recipe
from attractor_server.training.run_log import LOG, describe, progress_bar
from attractor_server.training.trainer import Progress, Trainer
from attractor_server.training.validation import write_memories


class Faulty(Dataset):
    """A data set that once in a while is not finite."""

    calls = 0

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        Faulty.calls += 1
        patterns = super().sample(memories, count, generator)
        return patterns * math.nan if Faulty.calls % 4 == 0 else patterns


def ignore(progress: Progress) -> None:
    """Shows nothing."""


def finish(trainer: Trainer) -> Trainer:
    trainer.run(budget_s=math.inf, each_step=ignore)
    return trainer


def assert_equal(one: Trainer, other: Trainer) -> None:
    """Bit by bit."""
    tensors = other.model.parameters.flat()
    for name, value in one.model.parameters.flat().items():
        assert torch.equal(value, tensors[name]), name


def train_at(folder: Path, *, show_progress: bool = False, control: bool = False) -> Model:
    options = run.Options(
        output=folder / "out", run_dir=folder / "run", budget_s=600, control=control, show_progress=show_progress
    )
    return run.train(write_recipe(folder), options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return train_at(folder, show_progress=False)


def test_a_recipe_becomes_a_model_file_that_says_how_it_was_made(folder: Path, model: Model) -> None:
    loaded = load_model(folder / "out" / "tiny.safetensors")
    assert loaded.digest == model.digest
    assert loaded.capacity == 4
    assert loaded.steps == 3
    assert loaded.layout.fields[0].shape == (28, 28)
    assert loaded.record == json.loads(json.dumps(model.record))
    record = loaded.record
    phases = record["phases"]
    assert isinstance(phases, list)
    assert [(phase["phase"], phase["steps"], phase["skipped"]) for phase in phases] == [
        ("main", 60, 0),
        ("eraser", 60, 0),
    ]
    assert {"recipe", "rated", "torch"} <= record.keys()
    assert loaded.erases
    assert loaded.calibration is not None
    figures = record["validation"]
    assert isinstance(figures, dict)
    assert figures.keys() == {
        f"{distortion}, chunks of {chunk}" for distortion in ("block", "noise") for chunk in (1, 4)
    }
    rivals = {"mse_cue", "mse_nearest", "mse_ridge", "mse_no_write", "mse_recalled", "id_recalled", "auroc"}
    assert all(rivals <= found.keys() and all(map(math.isfinite, found.values())) for found in figures.values())
    line = json.loads((folder / "run" / LOG).read_text().splitlines()[-1])
    assert {"phase", "step", "loss", "familiarity", "mse_no_write", "auroc", "skipped"} <= line.keys()
    assert list((folder / "run" / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("network", ["quadratic", "bilinear", "bounded"])
def test_the_loss_falls(network: str) -> None:
    losses: list[float] = []
    trainer(steps=120, network=network).run(budget_s=math.inf, each_step=lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.85 * losses[0]


def stop_at(step: int, one: Trainer, folder: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == step:
            one.save(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.run(budget_s=math.inf, each_step=stop)


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path: Path) -> None:
    whole, first, second = finish(trainer(steps=20)), trainer(steps=20), trainer(steps=20)
    stop_at(9, first, tmp_path)
    assert second.resume(tmp_path)
    assert second.progress.step == 9
    finish(second)
    assert_equal(whole, second)
    assert (second.progress.loss, second.progress.step) == (whole.progress.loss, 20)


def test_a_run_is_resumed_by_its_own_components_where_a_machine_finds_others(tmp_path: Path) -> None:
    """Principal components have no sign of their own: which one comes out depends on the machine."""
    recipe = RECIPE.model_copy(update={"optimizer": RECIPE.optimizer.model_copy(update={"steps": 20})})
    start = initialize_model(recipe, stripes())
    assert start.transform.whitening is not None
    turned = replace(start.transform.whitening, components=-start.transform.whitening.components)
    elsewhere = replace(start, transform=replace(start.transform, whitening=turned))
    whole, second = finish(trainer(steps=20)), Trainer(recipe, elsewhere, stripes(), MAIN)
    stop_at(9, trainer(steps=20), tmp_path)
    assert second.resume(tmp_path)
    assert_equal(whole, finish(second))
    assert second.model.transform.whitening is not None
    assert torch.equal(second.model.transform.whitening.components, start.transform.whitening.components)


def test_a_run_of_an_older_version_is_refused(tmp_path: Path) -> None:
    trainer().save(tmp_path)
    path = tmp_path / "main.pt"
    state = torch.load(path, weights_only=True)
    del state["transform"]
    torch.save(state, path)
    with pytest.raises(SettingsError, match="holds a run of an older version; expected one of this, or an empty"):
        trainer().resume(tmp_path)


def test_a_run_that_is_done_yields_its_model_again_without_training(folder: Path, model: Model) -> None:
    assert train_at(folder, show_progress=True).digest == model.digest


def test_a_run_without_resuming_starts_anew(tmp_path: Path) -> None:
    finish(trainer(steps=3)).save(tmp_path)
    fresh = trainer(steps=3)
    assert not fresh.resume(tmp_path / "elsewhere")
    assert fresh.progress.step == 0


def test_the_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    trainer().save(tmp_path)
    with pytest.raises(SettingsError, match=r"holds a run of another recipe \(tiny\); expected") as refusal:
        trainer(name="other").resume(tmp_path)
    assert str(tmp_path) in refusal.value.message


def test_a_step_whose_gradient_is_not_finite_is_left_out_and_counted() -> None:
    Faulty.calls = 0
    data = stripes()
    tried = finish(trainer(steps=10, data=Faulty(data.layout, data.patterns, data.classes)))
    assert tried.progress.skipped == 2
    assert tried.progress.step == 10
    assert math.isfinite(tried.progress.loss)
    assert all(value.isfinite().all() for value in tried.model.parameters.flat().values())


def test_without_a_finite_gradient_nothing_is_learned() -> None:
    data = stripes()
    tried = trainer(steps=3, data=spoilt(data, math.nan))
    before = {name: value.clone() for name, value in tried.model.parameters.flat().items()}
    finish(tried)
    assert tried.progress.skipped == 3
    assert all(torch.equal(value, before[name]) for name, value in tried.model.parameters.flat().items())


def test_the_time_budget_ends_a_run(tmp_path: Path) -> None:
    tried = trainer(steps=10**9)
    tried.run(budget_s=0.5, each_step=ignore)
    assert tried.progress.step >= 1
    assert tried.progress.elapsed_s >= 0.5
    tried.save(tmp_path)
    later = trainer(steps=10**9)
    later.resume(tmp_path)
    later.run(budget_s=0.5, each_step=ignore)  # nothing of it is left
    assert later.progress == tried.progress


@pytest.mark.parametrize("budget_s", [0.0, -1.0, math.nan])
def test_a_budget_that_cannot_be_meant_is_refused(budget_s: float) -> None:
    with pytest.raises(SettingsError, match=r"budget_s: saw .*; expected more than 0 seconds"):
        trainer().run(budget_s=budget_s, each_step=ignore)


def test_the_progress_line_has_losses_figures_and_skips() -> None:
    progress = Progress(12, 0.1, 3.0, 0.25, 0.5, 1)
    line = describe(progress, {"mse_no_write": 0.2, "auroc": 0.9, "mse_recalled": 0.1})
    assert line == (
        "step 12  loss 0.2500  familiarity 0.5000  mse_no_write 0.2000  auroc 0.9000  mse_recalled 0.1000  skipped 1"
    )


def test_the_bar_shows_that_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(visible=True) as show:
        show(Progress(12, 0.5, 3.0, 0.25, 0.5, 1), {"auroc": 0.9})
    assert "step 12" in capsys.readouterr().out


def test_a_run_can_be_watched_step_by_step() -> None:
    seen: list[Progress] = []
    trainer(steps=5).run(budget_s=math.inf, each_step=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5]
    assert seen[-1] == replace(seen[-1], skipped=0, share=0.8)


def test_a_device_that_is_not_here_is_refused(tmp_path: Path) -> None:
    options = run.Options(output=tmp_path, run_dir=tmp_path / "run", budget_s=600, device="nowhere:3")
    with pytest.raises(SettingsError, match=r"device: saw 'nowhere:3'; expected one that is here, as cpu or cuda \("):
        run.train(write_recipe(tmp_path), options)
    assert not (tmp_path / "run").exists()


def test_the_control_is_never_written_to_and_keeps_its_name_apart(tmp_path: Path, model: Model) -> None:
    control = train_at(tmp_path, control=True)
    assert control.name == "tiny-control"
    assert not control.erases
    validation = control.record["validation"]
    assert isinstance(validation, dict)
    written, found = model.record["validation"], validation["block, chunks of 1"]
    assert isinstance(written, dict)
    assert found["mse_no_write"] < written["block, chunks of 1"]["mse_no_write"]


def test_another_seed_makes_another_model_of_the_same_recipe(tmp_path: Path, model: Model) -> None:
    options = run.Options(output=tmp_path, run_dir=tmp_path / "run", budget_s=600, seed=2, show_progress=False)
    other = run.train(write_recipe(tmp_path), options)
    assert other.digest != model.digest
    recipe = other.record["recipe"]
    assert isinstance(recipe, dict)
    assert recipe["seed"] == 2


def test_the_eraser_starts_as_far_up_the_energy_as_does_best() -> None:
    start = finish(trainer(steps=120)).model
    data, heights = stripes(), list[float]()
    for name, value in start_eraser(start, data, RECIPE).parameters.eraser.items():
        if name.startswith("energy."):
            heights += (-value).tolist()
    best = loss_of_erasing(start, data, heights[0])
    assert heights == [heights[0]] * len(heights)
    assert all(best <= loss_of_erasing(start, data, up) + 1e-6 for up in UPS)


def loss_of_erasing(model: Model, data: Dataset, up: float) -> float:
    """From so far up the energy, in the episodes that the start is chosen by."""
    eraser = initial_eraser(2, model.parameters.initial, up=up)
    tried = replace(model, parameters=replace(model.parameters, eraser=eraser))
    return erasing(tried, data, episodes=REHEARSALS)


def erasing(model: Model, data: Dataset, *, episodes: int) -> float:
    """The sum of the losses of erasing over some episodes, always the same ones."""
    generator = Generator().manual_seed(RECIPE.seed)
    with torch.no_grad():
        losses = [erasing_losses(model, data, RECIPE, generator).total(RECIPE.optimizer) for _ in range(episodes)]
    return float(sum(losses))


def test_choosing_among_pages_is_learned_where_the_recipe_asks_for_it() -> None:
    weights = {"choice_weight": 0.5, "familiarity_weight": 0.0, "steps": 150}
    asked = RECIPE.model_copy(update={"optimizer": RECIPE.optimizer.model_copy(update=weights)})
    start, generator = initialize_model(RECIPE, stripes()), Generator().manual_seed(0)
    assert episode_losses(start, stripes(), RECIPE, generator).choice is None
    trained = finish(Trainer(asked, start, stripes(), MAIN)).model
    assert choice(trained, asked) < 0.8 * choice(start, asked)


def test_steps_before_the_last_come_nearer_where_the_recipe_asks_for_it() -> None:
    weights = {"early_weight": 20.0, "steps": 150}
    asked = RECIPE.model_copy(update={"optimizer": RECIPE.optimizer.model_copy(update=weights)})
    start, generator = initialize_model(RECIPE, stripes()), Generator().manual_seed(0)
    assert episode_losses(start, stripes(), RECIPE, generator).early is None
    trained = {
        name: finish(Trainer(recipe, start, stripes(), MAIN)).model
        for name, recipe in (
            ("asked", asked),
            ("not", RECIPE.model_copy(update={"optimizer": asked.optimizer.model_copy(update={"early_weight": 0.0})})),
        )
    }
    assert early(trained["asked"], asked) < 0.96 * early(trained["not"], asked)


def test_telling_patterns_apart_counts_where_the_recipe_asks_for_it() -> None:
    optimizer = RECIPE.optimizer.model_copy(update={"identity_weight": 2.0})
    start = initialize_model(RECIPE, stripes())
    without, asked = (
        episode_losses(start, stripes(), recipe, Generator().manual_seed(5))
        for recipe in (RECIPE, RECIPE.model_copy(update={"optimizer": optimizer}))
    )
    assert without.identity is None
    assert asked.identity is not None
    assert torch.isclose(asked.total(optimizer), without.total(RECIPE.optimizer) + 2 * asked.identity)


def test_patterns_as_near_as_the_right_one_leave_a_choice_by_chance() -> None:
    model = initialize_model(RECIPE, stripes())
    patterns = stripes().sample(1, 2, Generator().manual_seed(1))
    x = model.encode(patterns)
    halfway, right = x.mean(1, keepdim=True), x[:, :1]
    assert math.isclose(float(identity_error(model, halfway, patterns[:, :1], patterns)), math.log(2), rel_tol=1e-2)
    assert float(identity_error(model, 0.9 * right + 0.1 * halfway, patterns[:, :1], patterns)) < 1e-3
    assert float(identity_error(model, x[:, 1:], patterns[:, :1], patterns)) > 1


@pytest.mark.parametrize("told", [0.0, 0.3, 1.0])
def test_what_is_known_of_a_cue_is_held_whether_or_not_others_have_such(told: float) -> None:
    """Against the reading loop that serves, to which all cues are alike."""
    model, data, generator = initialize_model(RECIPE, stripes()), stripes(), Generator().manual_seed(4)
    patterns = data.sample(3, 6, generator)
    cues = distort(patterns, data.layout, [RECIPE.cues[0].model_copy(update={"told": told})], generator)
    assert float(cues.known.any(-1).float().mean()) == pytest.approx(told, abs=0.2)
    fast, x = write_memories(model, patterns, 6), model.encode(cues.values)
    found = read_cues(model, model.network, fast, x, cues)
    hold = model.hold(cues.values, cues.known)
    wanted = read(model.network, model.parameters, fast, x, hold=hold).pattern
    assert torch.allclose(found, wanted, atol=1e-4)
    free = read_cues(model, model.network, fast, x, None)
    assert torch.allclose(found, free, atol=1e-2) == (not told)


def early(model: Model, recipe: Recipe) -> float:
    """The mean error before the last step over some episodes."""
    generator, data = Generator().manual_seed(3), stripes()
    with torch.no_grad():
        losses = [episode_losses(model, data, recipe, generator).early for _ in range(12)]
    return float(torch.stack([loss for loss in losses if loss is not None]).mean())


def choice(model: Model, recipe: Recipe) -> float:
    """The mean loss of the choice over some episodes; of four pages chosen by chance it is log 4."""
    generator, data = Generator().manual_seed(3), stripes()
    with torch.no_grad():
        losses = [episode_losses(model, data, recipe, generator).choice for _ in range(12)]
    return float(torch.stack([loss for loss in losses if loss is not None]).mean())


def test_the_eraser_is_trained_alone_and_its_loss_falls() -> None:
    start = finish(trainer(steps=120)).model
    recipe = RECIPE.model_copy(update={"optimizer": RECIPE.optimizer.model_copy(update={"steps": 100})})
    learned = finish(Trainer(recipe, start, stripes(), ERASER)).model
    before = start.parameters.flat()
    changed = [name for name, value in learned.parameters.flat().items() if not torch.equal(value, before[name])]
    assert changed
    assert all(name.startswith("eraser.") for name in changed)
    assert erasing(learned, stripes(), episodes=12) < 0.95 * erasing(start, stripes(), episodes=12)
