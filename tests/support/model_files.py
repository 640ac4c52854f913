"""A small model, and files of it as no version of this server would write them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.support.episodes import draw
from tests.support.network_cases import SMALL
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import _digest, load_model
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.transform import Transform
from attractor_server.errors import ModelFileError
from attractor_server.fields import Field, Layout

Header = dict[str, Any]
Tensors = dict[str, Tensor]


def tiny(**changes: Any) -> Model:  # noqa: ANN401 - fields of Model
    """Fields of every sort that a header must carry, and parameters without a round number."""
    case = SMALL["quadratic in closed form"]
    model = Model(
        name="tiny",
        layout=Layout(
            (
                Field(name="picture", kind="image", shape=(1, 3), minimum=-0.1, maximum=1.3),
                Field(name="label", kind="text", shape=()),
            )
        ),
        network=case.network,
        parameters=draw(case).to(torch.float32).parameters,
        transform=Transform(scale=torch.tensor([2.0, 0.3, -1.5, 7.0]), shift=torch.tensor([-1.0, 0.0, 0.7, 3.0])),
        capacity=48,
        record={"recipe": {"seed": 7, "rate": 0.001}, "error": [0.1, 1e-17], "note": "α → β"},
    )
    return replace(model, **changes)


def with_tensor(model: Model, name: str, change: Callable[[Tensor], Tensor]) -> Model:
    """The same model with one of its tensors changed."""
    flat = {**model.parameters.flat(), "scale": model.transform.scale, "shift": model.transform.shift}
    flat[name] = change(flat[name])
    transform = Transform(scale=flat["scale"], shift=flat["shift"])
    return replace(model, parameters=Parameters.of(flat), transform=transform)


def content(model: Model) -> tuple[object, Tensors]:
    """All that a model is made of; tensors apart, since they compare entry by entry."""
    transform = {"transform.scale": model.transform.scale, "transform.shift": model.transform.shift}
    plain = (model.name, model.layout, model.network, model.capacity, model.record, model.digest)
    return plain, {**model.parameters.flat(), **transform}


def assert_same(found: Model, wanted: Model) -> None:
    """Bit for bit."""
    (found_plain, found_tensors), (plain, tensors) = content(found), content(wanted)
    assert found_plain == plain
    assert found_tensors.keys() == tensors.keys()
    assert [name for name in tensors if not torch.equal(found_tensors[name], tensors[name])] == []
    assert [name for name in tensors if found_tensors[name].dtype != tensors[name].dtype] == []


def forge(path: Path, change: Callable[[Header, Tensors], None]) -> None:
    """Changes what a model file says, and signs it as if it had been meant so."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["attractor"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    change(header, tensors)
    if "digest" in header:
        header["digest"] = _digest(header, tensors)
    save_file(tensors, path, metadata={"attractor": json.dumps(header)})


def refusal(path: Path) -> str:
    """Why a file is refused, which must name it."""
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert str(path) in caught.value.message
    return caught.value.message
