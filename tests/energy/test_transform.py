"""Between values as users have them and entries as a network has them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.model_files import tiny
from tests.support.tiny_models import IMAGE, VALUE, whitened_model
from torch import Generator, Tensor

from attractor_server.energy.model_file import load_model, save_model
from attractor_server.energy.reader import descend
from attractor_server.errors import ModelFileError


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(0))


def test_decoding_undoes_encoding_value_by_value() -> None:
    model = tiny()
    assert torch.allclose(model.decode(model.encode(uniform(5, 2, 4))), uniform(5, 2, 4), rtol=1e-5, atol=1e-6)
    assert torch.equal(model.encode(torch.ones(4)), torch.tensor([1.0, 0.3, -0.8, 10.0]))


def test_behind_a_whitening_what_lies_along_its_components_comes_back_and_the_rest_is_left_out() -> None:
    model = whitened_model("w", VALUE)
    x = uniform(5, 2, VALUE.size - 3)
    assert torch.allclose(model.encode(model.decode(x)), x, atol=1e-5)
    once = model.decode(model.encode(uniform(5, 2, VALUE.size)))
    assert torch.allclose(model.decode(model.encode(once)), once, atol=1e-5)


def test_an_image_has_no_values_beyond_dark_and_bright_and_other_fields_may() -> None:
    values = torch.tensor([[-0.5, 0.25, 1.5, -3.0]])
    model = tiny()
    decoded = model.decode(model.encode(values))
    assert torch.allclose(decoded, torch.tensor([[0.0, 0.25, 1.0, -3.0]]), atol=1e-5)


@pytest.mark.parametrize("whitened", [False, True])
def test_what_is_known_is_put_back_and_what_is_not_is_left(whitened: bool) -> None:
    model = whitened_model("w", VALUE)
    transform = model.transform if whitened else replace(model.transform, whitening=None)
    values, known = uniform(3, VALUE.size), uniform(3, VALUE.size) < 0.5
    x = transform.encode(1 - values)
    held = transform.hold(values, known)(x)
    assert torch.allclose(transform.hold(values, torch.zeros_like(known))(x), x, atol=1e-5)
    mixed = torch.where(known, values, transform.decode(x))
    assert torch.allclose(held, transform.encode(mixed), atol=1e-5)


def test_reading_holds_what_is_known_at_every_step() -> None:
    model = whitened_model("w", IMAGE, left_out=0)
    cue, known = uniform(2, 3, IMAGE.size), uniform(2, 3, IMAGE.size) < 0.3
    x, hold = model.encode(cue), model.transform.hold(cue, known)
    fast = model.parameters.memories(2)
    free, held = (descend(model.network, model.parameters, fast, x, hold=one, steps=4) for one in (None, hold))
    for step in range(1, 5):
        values = model.transform.decode(held[step])
        assert torch.allclose(values[known], cue[known], atol=1e-5)
        assert not torch.isclose(values[~known], cue[~known], atol=1e-4).any()
        assert not torch.allclose(model.transform.decode(free[step])[known], cue[known], atol=1e-2)


def test_a_whitening_goes_through_a_file_and_half_of_one_is_refused(tmp_path: Path) -> None:
    model = whitened_model("w", VALUE)
    save_model(model, tmp_path / "w")
    found = load_model(tmp_path / "w")
    assert torch.equal(found.encode(uniform(3, VALUE.size)), model.encode(uniform(3, VALUE.size)))
    whitening = model.transform.whitening
    assert whitening is not None
    short = replace(model.transform, whitening=replace(whitening, spread=whitening.spread[:-1]))
    save_model(replace(model, transform=short), tmp_path / "short")
    with pytest.raises(ModelFileError, match=r"short.*transform\.components has shape"):
        load_model(tmp_path / "short")
