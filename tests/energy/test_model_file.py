"""What a model file keeps, and what its digest names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.model_files import Header, Tensors, assert_same, content, forge, tiny, with_tensor
from torch import Tensor

from attractor_server.energy import model as module
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.fields import Layout

TENSORS = sorted([*tiny().parameters.flat(), "scale", "shift"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models" / "tiny.safetensors"


def digest_of(model: Model, folder: Path) -> str:
    return save_model(model, folder / "some.safetensors").digest


def test_a_file_brings_back_all_that_was_saved(path: Path) -> None:
    saved = save_model(tiny(), path)
    assert_same(replace(saved, digest=""), tiny())
    assert_same(load_model(path), saved)


def test_a_model_computes_the_same_bits_after_a_file(path: Path) -> None:
    saved = save_model(tiny(), path)
    found = load_model(path)
    x = torch.linspace(-1, 1, 12).reshape(1, 3, 4)

    def energy(model: Model) -> Tensor:
        return model.network.energy(model.parameters.slow, model.parameters.memories(1), model.encode(x))

    assert torch.equal(energy(found), energy(saved))
    assert (found.steps, found.page_bytes, found.device) == (3, 4 * (9 + 3), torch.device("cpu"))


def test_a_saved_model_is_saved_again_as_the_same_bytes(path: Path, tmp_path: Path) -> None:
    save_model(tiny(), path)
    save_model(load_model(path), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_same_content_has_the_same_digest_however_it_is_held(tmp_path: Path) -> None:
    model = tiny()
    transposed = with_tensor(model, "slow.A", lambda a: a.T.contiguous().T)
    tracked = with_tensor(model, "initial.W", lambda w: w.clone().requires_grad_())
    reordered = replace(model, record=dict(reversed(list(model.record.items()))))
    digests = {digest_of(each, tmp_path) for each in (model, transposed, tracked, reordered)}
    assert len(digests) == 1
    assert digests.pop().startswith("sha256:")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, name="tinier"),
        lambda m: replace(m, capacity=49),
        lambda m: replace(m, record={**m.record, "note": "β → α"}),
        lambda m: replace(m, layout=Layout(m.layout.fields[::-1])),
        lambda m: replace(m, layout=Layout((replace(m.layout.fields[0], name="image"), m.layout.fields[1]))),
        lambda m: replace(m, layout=Layout((replace(m.layout.fields[0], kind="audio"), m.layout.fields[1]))),
        lambda m: replace(m, layout=Layout((replace(m.layout.fields[0], shape=(3, 1)), m.layout.fields[1]))),
        lambda m: replace(m, layout=Layout((replace(m.layout.fields[0], maximum=1.4), m.layout.fields[1]))),
        lambda m: replace(m, network=Quadratic(inputs=4, features=4)),
    ],
)
def test_the_digest_changes_with_anything_in_the_header(tmp_path: Path, change: Callable[[Model], Model]) -> None:
    assert digest_of(change(tiny()), tmp_path) != digest_of(tiny(), tmp_path)


@pytest.mark.parametrize("name", TENSORS)
def test_the_digest_changes_with_any_bit_of_any_tensor(tmp_path: Path, name: str) -> None:
    def nudge(tensor: Tensor) -> Tensor:
        nudged = tensor.clone()
        nudged.view(-1)[-1] = torch.nextafter(nudged.view(-1)[-1], torch.tensor(torch.inf))
        return nudged

    assert digest_of(with_tensor(tiny(), name, nudge), tmp_path) != digest_of(tiny(), tmp_path)
    assert digest_of(with_tensor(tiny(), name, Tensor.double), tmp_path) != digest_of(tiny(), tmp_path)


def test_the_digest_changes_when_two_tensors_change_places(tmp_path: Path) -> None:
    model = tiny()
    transform = replace(model.transform, scale=model.transform.shift, shift=model.transform.scale)
    assert digest_of(replace(model, transform=transform), tmp_path) != digest_of(model, tmp_path)


def test_numbers_as_keys_of_the_record_come_back_as_strings(path: Path) -> None:
    saved = save_model(tiny(record={"error at": {9: 0.1, 10: 0.2, 128: 0.3}}), path)
    found = load_model(path)
    assert found.digest == saved.digest
    assert found.record == {"error at": {"9": 0.1, "10": 0.2, "128": 0.3}}


def test_tensors_that_share_memory_can_be_saved(path: Path) -> None:
    model = tiny()
    scale = model.transform.scale
    save_model(replace(model, transform=replace(model.transform, shift=scale)), path)
    assert torch.equal(load_model(path).transform.shift, scale)


def test_double_precision_goes_through_a_file(path: Path) -> None:
    model = tiny()
    for name in TENSORS:
        model = with_tensor(model, name, Tensor.double)
    saved = save_model(model, path)
    assert_same(load_model(path), saved)


def test_an_interrupted_save_leaves_the_old_file_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = save_model(tiny(), path)

    def half_written(tensors: object, draft: Path, **_: object) -> None:
        draft.write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", half_written)
        patch.setattr(module, "save_file", half_written, raising=False)
        with pytest.raises(OSError, match="no space"):
            save_model(tiny(name="newer"), path)
    assert_same(load_model(path), old)
    assert list(path.parent.iterdir()) == [path]


def test_a_save_over_a_file_in_use_leaves_its_reader_what_it_read(path: Path) -> None:
    save_model(tiny(), path)
    found = load_model(path)
    before = {name: tensor.clone() for name, tensor in content(found)[1].items()}
    save_model(with_tensor(tiny(), "slow.A", torch.zeros_like), path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in content(found)[1].items())


def test_a_file_of_format_1_is_read_as_what_it_meant(tmp_path: Path) -> None:
    """Then all options were on but the proximity term, and the energy had the weight 1 in the writing objective."""
    model = with_tensor(tiny(), "writer.log_energy", torch.zeros_like)
    path = tmp_path / "old.safetensors"
    save_model(model, path)

    def downgrade(header: Header, tensors: Tensors) -> None:
        header["format"] = 1
        del header["options"], tensors["writer.log_energy"]

    forge(path, downgrade)
    found = load_model(path)
    assert_same(replace(found, digest=""), model)
