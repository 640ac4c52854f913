"""Meta-training by the command, and its model served by a process of its own (claims 15 to 19, 22, 23)."""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.support.oracle import TOLERANCE, Floats, recalled, stored_patterns, written
from tests.support.server_process import COMMAND, ServerProcess, server_process

import attractor
from attractor_server.cli.main import main
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.training.datasets import load_dataset
from attractor_server.training.initialization import initialize_model
from attractor_server.training.recipe import load_recipe

RECIPE = """
name = "made"
capacity = 8
seed = 1

[data]
name = "random-signs"
metric = "bit_error"

[network]
kind = "bilinear"
keys = 48
values = 128

[writer]
steps = 2

[reader]
steps = 3

[episodes]
patterns_least = 2
patterns_limit = 8
singly_share = 0.5
memories = 4
cues = 4

[[cues]]
kind = "flips"
amount = 0.15

[optimizer]
steps = 60
rate = 5e-3
feature_rate = 1e-3
loop_rate = 2e-2
decay_from = 0.7
"""
LOOPS = {"reader.log_step", "reader.momentum_logit", "writer.log_rate.W", "writer.log_alpha", "writer.log_beta"}
Models = Mapping[str, Model]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def made(folder: Path) -> Models:
    """What the command makes of the recipe, `made`; the same trained without writes; and `start`, not trained."""
    path = folder / "made.toml"
    path.write_text(RECIPE)
    start = replace(initialize_model(load_recipe(path), load_dataset("random-signs", "train")), name="start")
    save_model(start, folder / "start.safetensors")
    words = ["train", str(path), "--output", str(folder), "--quiet", "--run-dir"]
    with subprocess.Popen([*COMMAND, *words, str(folder / "run")]) as running:
        control = CliRunner().invoke(main, [*words, str(folder / "control-run"), "--control"])
        assert control.exit_code == 0, control.output
        assert running.wait(200) == 0
    return {path.stem: load_model(path) for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def server(folder: Path, made: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in a process of its own, of files alone; it serves before Ray does."""
    assert set(made) == {"start", "made", "made-control"}
    flags = ("--models", folder, "--data-dir", tmp_path_factory.mktemp("data"), "--recall", "network", "--port", "0")
    with server_process(*map(str, flags), early=True) as running:
        yield running


def patterns_and_cues(model: Model) -> tuple[Floats, Floats]:
    """Of the cues' signs 15 % are wrong."""
    patterns = stored_patterns(model, count=8)
    flipped = np.random.default_rng(0).random(patterns.shape) < 0.15
    return patterns, np.where(flipped, -patterns, patterns)


def wrong_signs(found: Floats, patterns: Floats) -> float:
    return float((np.sign(found) != patterns).mean())


def moved(start: Model, model: Model) -> set[str]:
    """Names of the tensors that training has changed."""
    before = start.parameters.flat()
    return {name for name, value in model.parameters.flat().items() if not value.equal(before[name])}


def test_training_makes_a_memory_of_what_was_none(server: ServerProcess, made: Models) -> None:
    patterns, cues = patterns_and_cues(made["made"])
    wrong = {}
    with attractor.Client(server.address) as client:
        for name in made:
            memory = client.create_memory(f"of-{name}", model=name, write="stream")  # as it is trained
            for pattern in patterns:
                memory.store(pattern)
            wrong[name] = wrong_signs(memory.query(cues).pattern, patterns)
        empty = client.create_memory("empty", model="made").query(cues).pattern
    assert wrong["made"] < 0.3 * wrong["start"]
    assert wrong["made"] < 0.3 * wrong["made-control"]
    assert wrong["made"] < 0.3 * wrong_signs(empty, patterns)


def test_one_error_trains_network_reader_writer_and_objective(made: Models) -> None:
    every = set(made["start"].parameters.flat())
    assert moved(made["start"], made["made"]) == every
    assert every > LOOPS | {"slow.A", "initial.W"}


def test_what_writing_has_is_learned_through_the_writing_loop(made: Models) -> None:
    """A network that was trained without writes has no reason to move them."""
    full, control = (moved(made["start"], made[name]) for name in ("made", "made-control"))
    writing = {name for name in made["start"].parameters.flat() if name.startswith("writer.")}
    assert full >= writing
    assert not control & writing
    assert control > {"reader.log_step", "slow.A"}, "it did learn to read"


def test_a_stored_program_carries_the_method_out(server: ServerProcess, made: Models) -> None:
    """Another process, given the files alone, answers as the method computed here, step by step."""
    model = made["made"]
    patterns, cues = patterns_and_cues(model)
    with attractor.Client(server.address) as client:
        memory = client.create_memory("program", model="made")
        assert client.model("made").digest == model.digest
        before = memory.query(cues).pattern
        memory.store(patterns)
        after = memory.query(cues).pattern
    np.testing.assert_allclose(before, recalled(model, model.parameters.initial, cues), atol=TOLERANCE)
    np.testing.assert_allclose(after, recalled(model, written(model, patterns), cues), atol=TOLERANCE)
    assert np.abs(after - before).max() > 50 * TOLERANCE
