"""An operation more, by the ten files of `docs/extending.md`: from the SDK to the engine and back."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support.extending import extend
from tests.support.shards import HERE, THERE

from attractor_server.storage.backends.sqlite_backend import uri_of

ROOT = Path(__file__).parents[2]
SOURCES = ("protos", "client", "server")
FILES_LIMIT = 10


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the sources, without models and data."""
    for name in SOURCES:
        left_out = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.npz", "*.binpb")
        shutil.copytree(ROOT / name, tmp_path / "sources" / name, ignore=left_out)
    return tmp_path / "sources"


def run(sources: Path, *command: str | Path) -> str:
    """Return what Python prints with these sources, and the helpers of the tests."""
    path = os.pathsep.join(map(str, [*(sources / name for name in SOURCES), ROOT]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *command], env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=120
    ).stdout


def test_an_operation_takes_ten_files_and_answers_what_is_computed_directly(
    sources: Path, models: Path, tmp_path: Path
) -> None:
    assert len(set(extend("An operation", sources))) <= FILES_LIMIT
    run(sources, sources / "protos/generate.py")

    stored = np.random.default_rng(7).random((8, 4, 4), np.float32)  # of three pages
    asked = np.concatenate([stored, stored + np.float32(0.1)])
    np.save(tmp_path / "stored.npy", stored)
    np.save(tmp_path / "asked.npy", asked)
    found = json.loads(run(sources, "-m", "tests.support.measuring", models, uri_of(tmp_path / "data"), tmp_path))

    distances = np.linalg.norm((asked[:, None] - stored).reshape(16, 8, 16), axis=2).min(1)
    for name in (HERE, THERE):
        np.testing.assert_allclose(found[name], distances, atol=1e-5)
    assert found["one"] == pytest.approx(distances[-1], abs=1e-5)
    assert found["empty"] == [math.inf] * 16
    assert found["not_kept"] == "measure: this server keeps no patterns: start it without `--durable no`"
