"""The posterior over kept patterns: fitted beside a model, and what it brings to recall."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tests.support.tiny_training import RECIPE, many_stripes, of, trainer

from attractor_server.cli.main import main
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.training import posterior
from attractor_server.training.datasets import DATASETS, load_dataset
from attractor_server.training.distortions import Cues
from attractor_server.training.evaluation.run import Extent, evaluate
from attractor_server.training.kept import recall_kept
from attractor_server.training.model_lookup import SHIPPED
from attractor_server.training.posterior import kinds_of_cues
from attractor_server.training.recipe import CueTable
from attractor_server.training.validation import Task, draw_trial, write_memories

COUNT = 4


@pytest.fixture(scope="module", autouse=True)
def small_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "glyphs", many_stripes)
        patch.setattr(posterior, "ITERATIONS", 80)
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


def test_fits_see_whole_patterns_and_other_wordings_beside_the_kinds_of_the_recipe() -> None:
    data, recipe = many_stripes("train"), RECIPE
    assert [cue.label for cue in kinds_of_cues(data, recipe)] == ["block", "noise", "clean"]
    field = recipe.model_copy(update={"cues": [CueTable(kind="field", field="value")]})
    worded = replace(data, drifts=torch.zeros(3, 784))  # type: ignore[type-var]
    assert [cue.label for cue in kinds_of_cues(worded, field)] == ["field", "clean", "drift+field"]


def test_every_model_that_ships_has_a_posterior() -> None:
    assert [path.stem for path in sorted(SHIPPED.glob("*.safetensors")) if load_model(path).posterior is None] == []
