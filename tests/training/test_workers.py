"""`attractor train --workers`: several processes, in a real Ray, train what one would train."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tests.support.team_work import STEPS, report, train_quickly
from tests.support.tiny_training import RECIPE, TOML, trainer, write_recipe

from attractor_server.cli.main import main
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import load_dataset
from attractor_server.training.initialization import initialize_model

# Ray itself sets entries of its own settings that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray.data.context")

Report = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """It takes seconds to start, and its processes are used again."""
    from attractor_server.training.ray_train import local_ray  # noqa: PLC0415 - takes seconds

    with local_ray(2):
        yield


@pytest.fixture(scope="module")
def refusal(folder: Path, one_ray: None) -> SettingsError:
    """What comes of the workers' mistake, which they make once their reports are written."""
    from attractor_server.training.ray_train import on_workers  # noqa: PLC0415

    with pytest.raises(SettingsError) as raised:
        on_workers(partial(report, folder), workers=2, folder=folder)
    return raised.value


@pytest.fixture(scope="module")
def reports(folder: Path, refusal: SettingsError) -> tuple[Report, Report]:
    """What each of the two workers found."""
    one, other = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return one, other


@pytest.fixture(scope="module")
def parent(folder: Path) -> Model:
    """In a file of the folder."""
    return save_model(initialize_model(RECIPE, load_dataset("glyphs", "train")), folder / "parent.safetensors")


@pytest.fixture(scope="module")
def trained(folder: Path, one_ray: None, parent: Model) -> Result:
    """The command, with two workers, from a parent here, and with one kind of cues, which halves the figures."""
    before, _, after = TOML.rpartition("[[cues]]")
    text = (before + after[after.index("[optimizer]") :]).replace("steps = 60", f"steps = {STEPS}")
    recipe = write_recipe(folder, text)
    folders = ["--output", str(folder / "out"), "--run-dir", str(folder / "tiny-run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attractor_server.training.ray_train._train", train_quickly)
        patch.chdir(folder)  # where its workers are not
        command = ["train", str(recipe), "--workers", "2", "--parent", "parent.safetensors", *folders]
        return CliRunner().invoke(main, command)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_workers_agree_on_the_first_ones_number_and_know_each_others_tensors(reports: tuple[Report, Report]) -> None:
    for found in reports:
        assert found["agreed"] == 0.1
        assert found["gathered"][""].tolist() == [[0, 7], [1, 7]]


def test_averaged_gradients_are_the_mean_of_what_each_worker_found(reports: tuple[Report, Report]) -> None:
    one, other = reports
    assert not same(one["own"], other["own"])
    assert one["own"].keys() == other["own"].keys()
    means = {name: (value + other["own"][name]) / 2 for name, value in one["own"].items()}
    assert same(one["averaged"], means)
    assert same(other["averaged"], means)


def test_a_gradient_that_one_worker_lacks_is_zero_and_one_that_all_lack_stays_away(
    reports: tuple[Report, Report],
) -> None:
    for found in reports:
        assert same(found["uneven"], {"one": torch.tensor([1.0, -2.0])})


def test_both_workers_end_with_the_same_parameters_to_which_both_contributed(reports: tuple[Report, Report]) -> None:
    one, other = reports
    assert same(one["whole"], other["whole"])
    assert one["losses"] == other["losses"]
    assert len(one["losses"]) == STEPS
    alone = trainer(steps=STEPS)
    before = alone.model.parameters.flat()
    assert not same(one["whole"], before)
    alone.run(budget_s=math.inf, each_step=lambda progress: None)
    assert not same(one["whole"], alone.model.parameters.flat())


def test_workers_write_as_many_patterns_in_a_step_but_different_ones(reports: tuple[Report, Report]) -> None:
    one, other = reports
    assert one["counts"] == other["counts"]
    assert len(set(one["counts"])) > 2
    for step, given in one["first"].items():
        assert not torch.equal(given, other["first"][step])


def test_a_resumed_run_of_two_equals_one_that_was_never_interrupted(reports: tuple[Report, Report]) -> None:
    for found in reports:
        assert found["resumed_at"] == 5
        assert same(found["resumed"], found["whole"])


def test_a_run_of_two_workers_is_not_gone_on_with_by_one(folder: Path, reports: tuple[Report, Report]) -> None:
    with pytest.raises(SettingsError, match="workers: saw 1; expected 2, by which the run in"):
        trainer(steps=STEPS).resume(folder / "run")


def test_all_leave_out_the_step_whose_gradient_is_not_finite_on_one(reports: tuple[Report, Report]) -> None:
    one, other = reports
    assert one["skipped"] == other["skipped"] == 1
    assert same(one["faulty"], other["faulty"])
    assert all(value.isfinite().all() for value in one["faulty"].values())


def test_the_time_of_the_first_worker_ends_the_run_of_all(reports: tuple[Report, Report]) -> None:
    one, other = reports
    assert one["ended_at"] == other["ended_at"] >= 1
    assert one["elapsed_s"] == other["elapsed_s"] >= 0.5


def test_what_a_worker_cannot_accept_is_told_as_it_said_it(refusal: SettingsError) -> None:
    assert refusal.message == "saw a mistake on one of 2"


def test_the_command_trains_on_two_workers_and_the_file_says_so(folder: Path, trained: Result, parent: Model) -> None:
    assert trained.exit_code == 0, (trained.output, trained.exception)
    model = load_model(folder / "out" / "tiny.safetensors")
    assert model.record["workers"] == 2
    assert model.calibration is not None
    assert model.erases
    phases = model.record["phases"]
    assert isinstance(phases, list)
    assert [(phase["phase"], phase["steps"]) for phase in phases] == [("main", STEPS), ("eraser", STEPS)]
    assert {"validation", "rated", "recipe"} <= model.record.keys()
    assert model.record["parent"] == {"name": "tiny", "digest": parent.digest}
    assert (folder / "tiny-run" / "log.jsonl").read_text().count("\n") == 2
    assert list((folder / "tiny-run" / "tensorboard").glob("events.*"))
    assert f"tiny {model.digest} is in" in trained.stdout
    assert "step " in trained.stdout  # the bar, which worker 0 feeds
    assert trained.stderr == ""


def test_one_worker_is_told_that_two_began(folder: Path, trained: Result) -> None:
    folders = ["--output", str(folder / "one"), "--run-dir", str(folder / "tiny-run")]
    command = ["train", str(folder / "tiny.toml"), "--quiet", "--parent", str(folder / "parent.safetensors"), *folders]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "workers: saw 1; expected 2" in result.output
    assert not (folder / "one").exists()


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_a_number_of_workers_that_cannot_be_meant_is_refused(workers: str) -> None:
    result = CliRunner().invoke(main, ["train", "tiny.toml", "--workers", workers])
    assert result.exit_code == 2
    assert "--workers" in result.output


def test_more_workers_than_gpus_are_refused(tmp_path: Path) -> None:
    folders = ("--output", str(tmp_path), "--run-dir", str(tmp_path / "run"))
    command = ["train", str(write_recipe(tmp_path)), "--workers", "64", "--device", "cuda", *folders]
    result = CliRunner().invoke(main, command)
    here = torch.cuda.is_available()
    told = "workers: saw 64 on cuda; expected at most" if here else "device: saw 'cuda'; expected one that is here"
    assert result.exit_code == 2
    assert told in result.output
