"""What the README shows works, and `attractor demo` reaches what it is for."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from tests.support.server_process import COMMAND
from tests.support.shard_process import ShardProcess

from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardProcess]:
    """A shard of the models that ship, which is at once there; the demo starts a whole server."""
    spec = ShardSpec(bank_bytes=64 << 20, warm_up=False, store_uri=uri_of(tmp_path_factory.mktemp("data")))
    with ShardProcess(spec) as running:
        yield running


def invoked(*words: str) -> Result:
    """What comes of a command of this process, in a thread where no event loop is the tests'."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(CliRunner().invoke, main, words).result()


def test_the_example_in_the_readme_recalls_what_was_covered(shipped: ShardProcess) -> None:
    errors = dict(re.findall(r"(\w+) +error ([\d.]+)", _example_of_readme(1, shipped.address)))
    assert float(errors["recalled"]) < float(errors["cue"])


def test_the_agent_in_the_readme_remembers_and_says_what_it_does_not_know(shipped: ShardProcess) -> None:
    assert _example_of_readme(0, shipped.address).splitlines() == [
        "When does Ada fly to Oslo? Ada flies to Oslo on Tuesday",
        "Who painted the Mona Lisa? I know nothing about this",
    ]


def test_the_example_of_an_agent_corrects_branches_and_goes_back(shipped: ShardProcess) -> None:
    assert _example("agent", shipped.address).splitlines() == [
        "told twice: known already",
        "When does Ada fly to Oslo? Ada flies to Oslo on Tuesday",
        "What is Bob allergic to? Bob is allergic to peanuts",
        "Who painted the Mona Lisa? I know nothing about this",
        "corrected: Ada flies to Oslo on Friday",
        "in a branch that forgot: I know nothing about this",
        "and outside of it: Bob is allergic to peanuts",
        "rolled back: Ada flies to Oslo on Tuesday",
    ]


def test_the_examples_recall_letters_and_hand_notes_back(shipped: ShardProcess) -> None:
    said = [_example(name, shipped.address) for name in ("pipeline", "payloads")]
    told = re.findall(r"(\w+): (\d+) of 19 letters", said[0])
    assert re.findall(r"note-\d: ([\w ]+) \(distance", said[1]) == [
        "buy bread",
        "call Ada on Monday",
        "the key is under the mat",
        "water the plants",
    ]
    assert re.findall(r"note-\d: ([\w ]+) \(since", said[1]) == [
        "call Ada on Tuesday",
        "the key is under the mat",
        "water the plants",
    ]
    assert "not stored: ('note-0',) was there" in said[1]
    assert "note-3: water the plants (meant with probability" in said[1]
    assert [user for user, _ in told] == ["ada", "alan", "grace", "kurt"]
    assert all(int(right) > 15 for _, right in told)


def test_the_demo_reaches_its_figures_and_draws_them(tmp_path: Path) -> None:
    drawing = tmp_path / "demo.png"
    command = [*COMMAND, "demo", "--output", str(drawing)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True, env=dict(os.environ))
    assert drawing.read_bytes().startswith(b"\x89PNG")
    said = json.loads(run.stdout.splitlines()[-1])
    counts = {"memories": 16, "stored": 512, "queries": 512, "shards": 2}
    assert {key: said[key] for key in counts} == counts
    assert said["mse_network"] < min(said["mse_ridge"], said["mse_nearest"])
    assert said["mse_network"] <= 0.5 * said["mse_cue"]
    assert said["mse_recalled"] <= 0.1 * said["mse_cue"]
    assert said["id_recalled"] >= max(0.98, said["id_cue"])
    assert said["auroc"] >= 0.97
    assert said["probability_auroc"] >= said["auroc"]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # of PyTorch
def test_the_demo_stores_pictures_of_ones_own(
    shipped: ShardProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the server that is there already, instead of one of its own."""
    there = SimpleNamespace(addresses=[shipped.address])
    monkeypatch.setattr("attractor_server.demo.run.run_server", lambda _: nullcontext(there))
    picture = ROOT / "docs" / "demo.png"
    result = invoked("demo", "--output", str(tmp_path / "own.png"), "--image", str(picture), str(picture))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert (said["memories"], said["stored"]) == (1, 2)
    assert (tmp_path / "own.png").exists()


def test_the_demo_of_texts_answers_what_it_was_told_and_knows_what_it_was_not(
    shipped: ShardProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the server that is there already, instead of one of its own."""
    there = SimpleNamespace(addresses=[shipped.address])
    monkeypatch.setattr("attractor_server.demo.texts.run_server", lambda _: nullcontext(there))
    result = invoked("demo", "--text")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert said == {
        "told": 6,
        "asked": 4,
        "right": 4,
        "unknown": 2,
        "forgotten_in_branch": True,
        "kept_outside": True,
    }


def _example_of_readme(number: int, address: str) -> str:
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    script = example.replace("localhost:7171", address)
    assert script != example
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout


def _example(name: str, address: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
