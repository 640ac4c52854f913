"""Meta-gradients on a GPU, recorded and replayed, against those that are measured anew each time."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.tiny_training import ERASER, MAIN, RECIPE, stripes, write_recipe
from torch import distributed

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.errors import SettingsError
from attractor_server.training import metagradient, run
from attractor_server.training.episodes import Episode
from attractor_server.training.initialization import initialize_model
from attractor_server.training.metagradient import MetaGradient
from attractor_server.training.recipe import Recipe
from attractor_server.training.trainer import Phase, Trainer
from attractor_server.training.workers import ALONE, Group, Team

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NETWORKS = {
    "quadratic": RECIPE.network,
    "bilinear": {"kind": "bilinear", "keys": 24, "values": 32},
    "convolutional": {
        "kind": "convolutional", "image": [1, 28, 28], "channels": 2, "blocks": 1, "keys": 16, "values": 24
    },
}  # fmt: skip
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def recipe_of(network: str, steps: int = 24) -> Recipe:
    optimizer = RECIPE.optimizer.model_copy(update={"steps": steps, "identity_weight": 0.1})
    episodes = RECIPE.episodes.model_copy(update={"patterns_multiple": 8})
    return RECIPE.model_copy(update={"network": NETWORKS[network], "optimizer": optimizer, "episodes": episodes})


def on(device: torch.device, recipe: Recipe, phase: Phase, team: Team = ALONE) -> Trainer:
    return Trainer(recipe, initialize_model(recipe, stripes()).to(device), stripes().to(device), phase, team)


def trained(recipe: Recipe, phase: Phase) -> Model:
    trainer = on(CUDA, recipe, phase)
    trainer.run(budget_s=math.inf, each_step=lambda _: None)
    return trainer.model.to(CPU)


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[Group]:
    """A team of this process alone, by NCCL."""
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/joined", rank=0, world_size=1)
    yield Group(torch.device("cuda", 0))
    distributed.destroy_process_group()


@on_gpu
@pytest.mark.parametrize("phase", [MAIN, ERASER], ids=["main", "eraser"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_replayed_trains_as_what_is_measured(
    network: str, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, kinds = recipe_of(network), []
    record = MetaGradient._record

    def noted(own: MetaGradient, episode: Episode) -> object:
        kinds.append(episode.plan)
        return record(own, episode)

    monkeypatch.setattr(MetaGradient, "_record", noted)
    replayed = trained(recipe, phase)
    assert kinds, "no kind of episode came twice"
    monkeypatch.setattr(metagradient, "RECORDINGS_LIMIT", 0)
    measured, start = trained(recipe, phase), initialize_model(recipe, stripes())
    for name, value in measured.parameters.flat().items():
        moved = (value - start.parameters.flat()[name]).abs().max()
        assert (replayed.parameters.flat()[name] - value).abs().max() <= 0.02 * moved, name


@on_gpu
def test_a_run_is_resumed_where_it_was_begun(tmp_path: Path) -> None:
    recipe = recipe_of("bilinear")
    on(CUDA, recipe, MAIN).save(tmp_path)
    assert on(CUDA, recipe, MAIN).resume(tmp_path)
    with pytest.raises(SettingsError, match="device: saw 'cpu'; expected the kind that the run in"):
        on(CPU, recipe, MAIN).resume(tmp_path)


@on_gpu
def test_a_team_is_joined_by_nccl(joined: Group, tmp_path: Path) -> None:
    there, here = torch.tensor([1.0, math.inf], device=CUDA), torch.tensor([3, 4], dtype=torch.uint8)
    assert joined.mean(there).equal(there)
    assert joined.gather(here).equal(here[None])
    assert joined.agree(0.1) == 0.1
    recipe = recipe_of("bilinear", steps=4)
    trainer = on(CUDA, recipe, MAIN, joined)
    trainer.run(budget_s=math.inf, each_step=lambda _: None)
    trainer.save(tmp_path)
    resumed = on(CUDA, recipe, MAIN, joined)
    assert resumed.resume(tmp_path)
    assert resumed.progress == trainer.progress


@on_gpu
def test_a_recipe_becomes_a_model_on_a_gpu(tmp_path: Path) -> None:
    options = run.Options(output=tmp_path, run_dir=tmp_path / "run", budget_s=600, device="cuda", show_progress=False)
    made = run.train(write_recipe(tmp_path), options)
    loaded = load_model(tmp_path / "tiny.safetensors")
    assert loaded.digest == made.digest
    assert (loaded.device, loaded.erases) == (CPU, True)
    assert loaded.calibration is not None
