"""A model file."""

from pathlib import Path

import pytest
from tests.support.model_files import tiny

from attractor_server.energy.model_file import save_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(tiny(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"
