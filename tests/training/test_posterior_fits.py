"""The posterior over kept patterns: fitted beside a model, and what it brings to recall."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tests.support.tiny_training import RECIPE, many_stripes, of, seeded, trainer

from attractor_server.cli.main import main
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.fields import Field, Layout
from attractor_server.training import posterior
from attractor_server.training.baselines import look_up
from attractor_server.training.copies import draw_observed
from attractor_server.training.datasets import DATASETS, Dataset, Source, load_dataset
from attractor_server.training.distortions import Cues
from attractor_server.training.evaluation.run import Extent, evaluate
from attractor_server.training.kept import recall_kept
from attractor_server.training.mixture import mixture_of
from attractor_server.training.model_lookup import SHIPPED, open_model
from attractor_server.training.posterior import kinds_of_cues
from attractor_server.training.recipe import CueTable
from attractor_server.training.validation import Task, draw_trial, recall, write_memories

COUNT = 4
glyph_data = DATASETS["glyphs"]


@pytest.fixture(scope="module", autouse=True)
def small_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "glyphs", many_stripes)
        patch.setattr(posterior, "ITERATIONS", 40)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model without and with what `attractor fit` gives it."""
    folder = tmp_path_factory.mktemp("fits")
    bare, fitted = folder / "bare.safetensors", folder / "fitted.safetensors"
    trained = trainer()
    trained.run(budget_s=math.inf, each_step=lambda progress: None)
    model = save_model(replace(trained.model, record={"recipe": RECIPE.as_record()}), bare)
    save_model(model, fitted)
    result = CliRunner().invoke(main, ["fit", str(fitted)])
    assert (result.exit_code, model.digest in result.stdout) == (0, True)
    return bare, fitted


def test_fitting_leaves_the_digest_and_all_else_of_a_file_as_they_are(files: tuple[Path, Path]) -> None:
    bare, fitted = (load_model(path) for path in files)
    assert (bare.posterior, bare.digest) == (None, fitted.digest)
    assert fitted.posterior is not None
    assert float(fitted.posterior.weights.min()) >= 0
    assert sum(fitted.posterior.used) >= 1


def test_a_posterior_has_rows_of_its_own_that_are_better_than_the_network_alone(files: tuple[Path, Path]) -> None:
    extent = Extent(memories=8, counts=(COUNT,), rivals=False)
    assert not of(evaluate([str(files[0])], extent), method="posterior")
    rows = [row for row in evaluate([str(files[1])], extent) if row.table == "quality"]
    for cue in ("block 14", "noise 0.3"):
        (ours,), (alone,) = (of(rows, cue=cue, method=name) for name in ("posterior", "memory, one batch"))
        assert ours.value < 0.7 * alone.value
        assert ours.identified >= alone.identified
        assert ours.auroc is not None
        assert alone.auroc is not None
        assert ours.auroc >= alone.auroc
        assert ours.called_known is not None
        assert ours.unseen_called_known is not None
        assert ours.called_known > 0.8 > 0.2 > ours.unseen_called_known
        assert ours.bytes == alone.bytes + 4 * COUNT * 784
        assert json.loads(ours.as_json())["called_known"] == ours.called_known


def test_what_is_held_stays_and_a_stored_pattern_is_answered_with_itself(files: tuple[Path, Path]) -> None:
    model = load_model(files[1])
    assert model.posterior is not None
    data = load_dataset("glyphs", "validation")
    told = CueTable(kind="block", amount=14, told=1.0)
    trial = draw_trial(data, Task(data=RECIPE.data, cues=[told], count=COUNT, memories=4))
    fast = write_memories(model, trial.patterns, COUNT)
    blocks = recall_kept(model, model.posterior, fast, trial.patterns, trial.cues)
    held = trial.cues.known
    assert torch.equal(blocks.answers[held], trial.cues.values[held])
    whole = Cues(trial.patterns, torch.zeros_like(held))
    clean = recall_kept(model, model.posterior, fast, trial.patterns, whole)
    assert float((clean.answers - trial.patterns).square().mean()) < 1e-3
    assert torch.equal(clean.matches.argmax(-1), torch.arange(COUNT).expand(4, COUNT))
    assert torch.allclose(clean.matches.sum(-1), clean.known, atol=1e-5)


def test_fits_see_whole_patterns_and_the_mixture_beside_the_kinds_of_the_recipe() -> None:
    images = kinds_of_cues(many_stripes("train"), RECIPE)
    assert [cue.label for cue in images] == ["block", "noise", "clean", "block+noise", "shift", "contrast+rows"]
    told = RECIPE.model_copy(update={"cues": [CueTable(kind="missing", amount=0.5, told=1.0)]})
    field = RECIPE.model_copy(update={"cues": [CueTable(kind="field", field="value")]})
    worded = replace(vectors(), drifts=torch.zeros(3, 8))
    assert [(cue.label, cue.told) for cue in kinds_of_cues(vectors(), told)] == [
        ("missing", 1.0),
        ("clean", 0.0),
        ("missing", 0.0),
        ("noise", 0.0),
    ]
    assert [cue.label for cue in kinds_of_cues(worded, field)] == ["field", "clean", "missing", "noise", "drift+field"]


def vectors() -> Dataset:
    layout = Layout((Field(name="value", kind="vector", shape=(8,)),))
    return Dataset(layout, torch.randn(64, 8, generator=seeded()), torch.arange(64))


def test_copies_are_of_things_that_stand_side_by_side_and_of_other_things_than_unseen_cues() -> None:
    noise = [CueTable(kind="noise", amount=0.1)]
    observed = draw_observed(many_stripes("train"), Task(data=RECIPE.data, cues=noise, count=8, memories=4), 4)
    trial, things = observed.trial, observed.things
    assert torch.equal(things[:, ::4].repeat_interleave(4, 1), things)
    for seen in (trial.patterns, trial.cues.values):
        assert abs(float((seen - things).std()) - 0.1) < 0.005
    assert float((trial.patterns - trial.cues.values).square().mean()) > 0.015  # another observation
    strange = trial.unseen.values[:, None] - things[:, :, None]
    assert float(strange.square().mean(-1).min()) > 0.02


@pytest.fixture(scope="module")
def shipped() -> tuple[Model, Source]:
    return open_model("glyphs-28-small"), glyph_data("validation")


def test_a_memory_of_noisy_copies_answers_nearer_to_the_thing_than_the_mean_of_its_copies_and_than_the_network_alone(
    shipped: tuple[Model, Source],
) -> None:
    model, data = shipped
    assert model.posterior is not None
    noise = [CueTable(kind="noise", amount=0.3)]
    observed = draw_observed(data, Task(data=RECIPE.data, cues=noise, count=32, memories=6), 8)
    trial = observed.trial
    fast = write_memories(model, trial.patterns, model.write_chunk)
    found = recall_kept(model, model.posterior, fast, trial.patterns, trial.cues)
    mean = (found.matches / found.matches.sum(-1, keepdim=True)) @ trial.patterns
    error, of_mean, alone = (
        float((x - observed.things).square().mean()) for x in (found.answers, mean, recall(model, fast, trial.cues))
    )
    assert error < 0.6 * of_mean
    assert error < alone
    assert float((found.known > 0.5).float().mean()) > 0.8


def test_a_mixture_that_nobody_is_told_of_is_found_and_called_known_and_others_are_not(
    shipped: tuple[Model, Source],
) -> None:
    model, data = shipped
    assert model.posterior is not None
    trial = draw_trial(data, Task(data=RECIPE.data, cues=mixture_of(data), count=32, memories=6))
    fast = write_memories(model, trial.patterns, model.write_chunk)
    stored, unseen = (
        recall_kept(model, model.posterior, fast, trial.patterns, cues) for cues in (trial.cues, trial.unseen)
    )
    found = stored.matches.argmax(-1) == torch.arange(32)
    nearest = look_up(trial.cues.values, trial.patterns)
    by_euclid = (nearest - trial.patterns).abs().amax(-1) == 0
    assert float(found.float().mean()) > float(by_euclid.float().mean()) + 0.1
    assert float((stored.known > 0.5).float().mean()) > 0.8
    assert float((unseen.known > 0.5).float().mean()) < 0.1


def test_every_model_that_ships_has_a_posterior() -> None:
    assert [path.stem for path in sorted(SHIPPED.glob("*.safetensors")) if load_model(path).posterior is None] == []
