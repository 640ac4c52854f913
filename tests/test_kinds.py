"""What holds of each kind of field: of those that ship, and of the one that `docs/extending.md` writes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.extending import module_of
from tests.support.tiny_models import tiny_model

from attractor import _types as client
from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.errors import InvalidRequest
from attractor_server.fields import KINDS, Field, Layout
from attractor_server.memories.outcomes import Floats
from attractor_server.rpc.codec import Patterns, decode
from attractor_server.rpc.validation import check_values

DTYPES = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}
SHAPE = (2, 3)


@pytest.fixture(params=[*KINDS, "rating"])
def field(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Field:
    """A field of each kind."""
    if request.param == "rating":
        monkeypatch.setitem(KINDS, "rating", module_of("A data kind").RATING)
    minimum, maximum = KINDS[request.param].limits
    alphabet = "abcdef" if KINDS[request.param].has_alphabet else ""
    return Field(name="one", kind=request.param, shape=SHAPE, minimum=minimum, maximum=maximum, alphabet=alphabet)


def tensor_of(values: "np.typing.NDArray[np.generic]", dtype: str) -> pb.Tensor:
    number = pb.DType.Value(f"DTYPE_{dtype.upper()}")
    return pb.Tensor(field="one", dtype=number, shape=values.shape, data=values.tobytes())


def decoded(field: Field, tensor: pb.Tensor) -> Floats:
    return decode(Layout((field,)), [tensor], rows=1, where="tensors").values


def sent(field: Field) -> Floats:
    """Whole numbers that each kind takes, one pattern."""
    return np.arange(6, dtype=np.float32).reshape(1, *SHAPE)


def test_each_type_of_a_kind_means_the_same_values_in_its_unit(field: Field) -> None:
    for dtype in sorted(DTYPES.keys() & {*field.traits.dtypes}):
        unit = field.traits.uint8_unit if dtype == "uint8" else 1
        found = decoded(field, tensor_of(sent(field).astype(DTYPES[dtype]), dtype))
        assert found.flatten().tolist() == pytest.approx([n / unit for n in range(6)])


def test_a_type_that_a_kind_does_not_take_is_refused_by_its_name(field: Field) -> None:
    for dtype in DTYPES.keys() - {*field.traits.dtypes}:
        with pytest.raises(InvalidRequest, match=f"for {field.kind} 'one'"):
            decoded(field, tensor_of(sent(field).astype(DTYPES[dtype]), dtype))


def test_values_beyond_the_limits_are_refused_with_a_hint(field: Field) -> None:
    layout = Layout((field,))
    check_values(layout, Patterns(np.ones((1, 6), np.float32), None), where="tensors")
    beyond = np.full((1, 6), min(2 * field.maximum, 250.0) if field.has_codes else 2 * field.maximum, np.float32)
    with pytest.raises(InvalidRequest) as refused:
        check_values(layout, Patterns(beyond, None), where="tensors")
    assert field.traits.hint in str(refused.value)


def test_a_missing_value_is_taken_in_a_cue_alone(field: Field) -> None:
    layout, some = Layout((field,)), np.ones((1, 6), np.float32)
    some[0, 2] = np.nan
    check_values(layout, Patterns(some, None), where="cues", partial=True)
    with pytest.raises(InvalidRequest):
        check_values(layout, Patterns(some, None), where="tensors")


def test_what_is_recalled_lies_within_the_kind(field: Field) -> None:
    model = tiny_model("tiny", field)
    values = model.decode(100 * torch.randn(8, model.encoding.size, generator=torch.Generator().manual_seed(0)))
    low, high = field.traits.recall_limits or ((0, 5) if field.has_codes else (-torch.inf, torch.inf))
    assert values.shape == (8, 6)
    assert float(values.min()) >= low
    assert float(values.max()) <= high


def test_what_a_kind_is_recalled_as_is_judged_from_minus_one_to_one(field: Field) -> None:
    if field.traits.judged is not None and field.traits.recall_limits is not None:
        factor, offset = field.traits.judged
        assert [factor * limit + offset for limit in field.traits.recall_limits] == [-1, 1]


def test_a_model_file_brings_the_field_back(field: Field, tmp_path: Path) -> None:
    save_model(replace(tiny_model("tiny", field), record={}), tmp_path / "tiny.safetensors")
    assert load_model(tmp_path / "tiny.safetensors").layout.fields == (field,)


def test_each_kind_has_a_number_in_the_contract_and_a_row_in_the_client() -> None:
    assert {f"FIELD_KIND_{name.upper()}" for name in KINDS} == {*memories_pb2.FieldKind.keys()} - {
        "FIELD_KIND_UNSPECIFIED"
    }
    assert {*KINDS} == {*client.KINDS}
    for name, kind in KINDS.items():
        assert (kind.uint8_unit, kind.has_alphabet) == (client.KINDS[name].uint8_unit, client.KINDS[name].has_alphabet)  # type: ignore[index]
