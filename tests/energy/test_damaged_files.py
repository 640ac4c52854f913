"""Damaged files and files of something else: each is refused by name, and nothing but ModelFileError escapes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from tests.support.model_files import Tensors, assert_same, refusal, tiny
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.errors import ModelFileError


def test_a_missing_file_is_refused(path: Path) -> None:
    path.unlink()
    assert "No such file" in refusal(path)


def test_a_folder_is_refused(path: Path) -> None:
    assert "cannot be read as a model file" in refusal(path.parent)


@pytest.mark.parametrize("data", [b"", b"abc", b"this is no model, but it is long enough", 8 * b"\xff" + b"{}"])
def test_what_is_no_safetensors_file_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert "cannot be read as a model file" in refusal(path)


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path: Path, kept: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert "cannot be read as a model file" in refusal(path)


def test_a_flipped_bit_in_a_tensor_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_a_changed_letter_in_the_header_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"picture", b"pisture"))
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda a0: {"slow.a1": a0},
        lambda a0: {"slow.a0": a0.view(torch.int32)},
        lambda a0: {"slow.a0": a0[None]},
    ],
    ids=["name", "type", "shape"],
)
def test_a_tensor_of_the_same_bytes_but_another_meaning_is_refused(
    path: Path, change: Callable[[Tensor], Tensors]
) -> None:
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    renamed = change(tensors.pop("slow.a0"))
    save_file({**tensors, **renamed}, path, metadata=metadata)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[]",
        "null",
        '"model"',
        "{}",
        '{"format": "new"}',
        '{"format": Infinity}',
        '{"format": NaN}',
        99999 * "[",
    ],
)
def test_a_header_that_is_not_ours_is_refused(path: Path, header: str) -> None:
    save_file({"a": torch.zeros(1)}, path, metadata={"attractor": header})
    assert "not one of a model" in refusal(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_someone_else_is_refused(path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(1, dtype=torch.bfloat16)}, path, metadata=metadata)
    assert "not one of a model" in refusal(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Model]:
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    model = save_model(tiny(), path)
    return path.with_name("flipped.safetensors"), path.read_bytes(), model


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bits_are_noticed_wherever_they_are(whole: tuple[Path, bytes, Model], data: st.DataObject) -> None:
    path, content, model = whole
    damaged = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        found = load_model(path)
    except ModelFileError:
        return
    assert_same(found, model)
