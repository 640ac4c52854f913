"""What users may give as patterns, and what they are told where they may not."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from attractor import MISSING, Cue, FieldInfo, InvalidRequest, ModelInfo, Patterns
from attractor._arrays import Column, PackedPatterns, find_missing, pack, pack_cues
from attractor._types import KINDS, FieldKind, find_kind
from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_data_pb2 as pb

MODEL = ModelInfo(
    name="tiny",
    digest="sha256:0",
    fields=(FieldInfo(name="image", kind="image", shape=(2, 3)),),
    capacity=8,
    page_bytes=64,
    steps=5,
    training_record={},
)
PAIR = ModelInfo(
    name="pair",
    digest="sha256:1",
    fields=(FieldInfo(name="key", kind="vector", shape=(3,)), FieldInfo(name="value", kind="vector", shape=(2,))),
    capacity=8,
    page_bytes=64,
    steps=5,
    training_record={},
)
NOTE = ModelInfo(
    name="note",
    digest="sha256:2",
    fields=(FieldInfo(name="word", kind="text", shape=(3,), alphabet=" abc"),),
    capacity=8,
    page_bytes=64,
    steps=5,
    training_record={},
)
ZEROS = np.zeros((2, 3), np.float32)


class Tensorlike:
    """What numpy can see as an array, as tensors and images are."""

    def __array__(self, dtype: object = None, copy: object = None) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        return np.ones((2, 3), np.uint8)


@pytest.mark.parametrize(
    ("patterns", "dtype"),
    [
        (ZEROS, pb.DTYPE_FLOAT32),
        (ZEROS.astype(np.float64), pb.DTYPE_FLOAT32),
        (ZEROS.astype(">f4"), pb.DTYPE_FLOAT32),
        (ZEROS.astype(">f8"), pb.DTYPE_FLOAT32),
        (ZEROS.astype(">f2"), pb.DTYPE_FLOAT16),
        (np.ma.masked_array(ZEROS, mask=False), pb.DTYPE_FLOAT32),
        (ZEROS.astype(np.float16), pb.DTYPE_FLOAT16),
        (ZEROS.astype(np.uint8), pb.DTYPE_UINT8),
        ([[0.0, 0.5, 1.0]] * 2, pb.DTYPE_FLOAT32),
        (Tensorlike(), pb.DTYPE_UINT8),
        ({"image": ZEROS}, pb.DTYPE_FLOAT32),
    ],
)
def test_values_keep_their_dtype_where_the_wire_has_it(patterns: Patterns, dtype: pb.DType.ValueType) -> None:
    packed = pack(MODEL, patterns)
    assert packed.columns[0].dtype == dtype
    assert packed.columns[0].values.shape == (1, 2, 3)
    assert packed.single


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (np.zeros((2, 3), np.int64), r"patterns\[image\]: saw dtype int64; expected float32.*uint8"),
        (np.zeros((2, 3), np.bool_), r"saw dtype bool; expected"),
        (np.zeros((2, 3), np.complex64), r"saw dtype complex64"),
        (np.zeros((3, 2), np.float32), r"saw shape \(3, 2\); expected \(2, 3\) or \(patterns, 2, 3\)"),
        (np.zeros((4, 6), np.float32), r"saw shape \(4, 6\)"),
        (np.float32(1), r"saw shape \(\)"),
        (np.zeros((0, 2, 3), np.float32), "empty batch"),
        ({"picture": ZEROS}, r"saw the fields \['picture'\]; expected \['image'\]"),
        ({}, r"expected \['image'\]"),
        ([[1.0], [1.0, 2.0]], "numpy cannot take"),
        ("nonsense", "saw dtype str"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_seen_and_expected(patterns: Patterns, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        pack(MODEL, patterns)
    assert caught.value.violations


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (np.zeros(5, np.float32), r"saw one array; expected a mapping with the fields \['key', 'value'\]"),
        ({"key": np.zeros(3)}, r"saw the fields \['key'\]"),
        ({"key": np.zeros((2, 3)), "value": np.zeros((3, 2))}, "different numbers of patterns"),
        ({"key": np.zeros(3), "value": np.zeros((1, 2))}, "different numbers of patterns"),
    ],
)
def test_fields_must_be_complete_and_alike(patterns: Patterns, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pack(PAIR, patterns)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (np.ones((2, 3), np.float32), r"known\[image\]: saw dtype float32; expected bool"),
        (np.ones((3,), np.bool_), r"known\[image\]: saw shape \(3,\)"),
        (np.ones((3, 2, 3), np.bool_), r"saw shape \(3, 2, 3\)"),
    ],
)
def test_masks_must_fit_the_cues(known: Patterns, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pack_cues(MODEL, np.zeros((4, 2, 3), np.float32), known)


def test_a_mask_of_one_pattern_holds_for_all() -> None:
    known = np.array([[True, False, False], [False, False, True]])
    column = pack_cues(MODEL, np.zeros((4, 2, 3), np.float32), known).columns[0]
    assert column.known is not None
    assert column.known.shape == (4, 2, 3)
    assert (column.known == known).all()


def test_fields_without_a_mask_are_not_known() -> None:
    cue = Cue({"key": np.zeros(3), "value": np.zeros(2)}, {"key": np.ones(3, np.bool_)})
    key, value = pack_cues(PAIR, cue.cues, cue.known).columns
    assert key.known is not None
    assert value.known is None


def test_cues_may_leave_fields_out_and_are_answered_with_all_of_them() -> None:
    packed = pack_cues(PAIR, {"value": np.zeros((4, 2), np.float32)})
    assert [column.field for column in packed.columns] == ["value"]
    assert packed.rows == 4
    assert packed.result_bytes == 4 * (16 + 4 * 5)


@pytest.mark.parametrize(
    ("cues", "known", "message"),
    [
        ({}, None, r"cues: saw the fields \[\]; expected some of \['key', 'value'\]"),
        ({"kye": np.zeros(3)}, None, r"saw the fields \['kye'\]; expected some of"),
        ({"key": np.zeros(3)}, {"value": np.ones(2, np.bool_)}, r"known\[value\]: saw entries marked as known"),
    ],
)
def test_cues_that_leave_out_too_much_are_refused(cues: Patterns, known: Patterns | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pack_cues(PAIR, cues, known)


def test_a_mask_that_marks_nothing_may_name_a_field_that_is_left_out() -> None:
    masks = {"key": np.ones(3, np.bool_), "value": np.zeros(2, np.bool_)}
    (key,) = pack_cues(PAIR, {"key": np.zeros(3)}, masks).columns
    assert key.known is not None


NAN = np.nan
GAPS = np.array([[[0, 1, 2], [3, NAN, 5]], [[0, 1, 2], [3, 4, 5]]])
HELD = np.stack([~np.isnan(GAPS[0]), np.zeros((2, 3), np.bool_)])


def masks_of(packed: PackedPatterns) -> list[object]:
    """The mask of each column; None where there is none."""
    return [None if column.known is None else column.known.tolist() for column in packed.columns]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f4", np.float16])
def test_all_that_a_cue_with_gaps_gives_is_known_unless_a_mask_says_otherwise(dtype: DTypeLike) -> None:
    cues = GAPS.astype(dtype)
    first = np.arange(6).reshape(2, 3) == 0
    assert masks_of(pack_cues(MODEL, cues)) == [HELD.tolist()]
    assert masks_of(pack_cues(MODEL, np.ma.masked_invalid(cues))) == [HELD.tolist()]
    assert masks_of(pack_cues(MODEL, cues, known=False)) == [None]
    assert masks_of(pack_cues(MODEL, cues, first)) == [2 * [first.tolist()]]


def test_gaps_of_two_bytes_a_number_are_seen() -> None:
    """As numpy has no bfloat16 of its own, its upper halves of float32 are given as they would be sent."""
    halves = (np.array([[NAN, 1, -np.inf], [-NAN, 0, -1]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    missing = find_missing(Column("image", pb.DTYPE_BFLOAT16, halves, None))
    assert missing is not None
    assert missing.tolist() == 2 * [[True, False, False]]
    assert find_missing(Column("image", pb.DTYPE_BFLOAT16, halves[:, 1:], None)) is None


def test_cues_without_gaps_are_sent_without_a_mask() -> None:
    images: list[Patterns] = [ZEROS, np.full((2, 3), 255, np.uint8), np.ma.masked_array(ZEROS, mask=False)]
    assert all(masks_of(pack_cues(MODEL, cue)) == [None] for cue in images)
    assert masks_of(pack_cues(NOTE, ["abc", "a b"])) == [None]
    assert masks_of(pack_cues(PAIR, {"key": np.zeros((4, 3)), "value": np.zeros((4, 2))})) == [None, None]


def test_a_missing_character_is_a_gap_and_so_is_a_field_that_is_left_out() -> None:
    sides, nothing = [True, False, True], 3 * [False]
    assert masks_of(pack_cues(NOTE, [f"a{MISSING}c", "abc"])) == [[sides, nothing]]
    assert masks_of(pack_cues(PAIR, {"value": np.array([[1, NAN], [1, 2]])})) == [[[True, False], [True, True]]]
    both = {"key": np.array([[1, NAN, 3], [1, 2, 3]]), "value": np.zeros((2, 2))}
    assert masks_of(pack_cues(PAIR, both)) == [[sides, nothing], [2 * [True], 2 * [False]]]


def test_values_are_copied_so_that_a_buffer_may_be_used_again() -> None:
    buffer = np.zeros((2, 3), np.float32)
    column = pack(MODEL, buffer).columns[0]
    buffer[:] = 1
    assert not column.values.any()


@given(st.integers(1, 40), st.integers(1, 40))
def test_pieces_side_by_side_are_the_whole(rows: int, size: int) -> None:
    values = np.arange(rows * 6, dtype=np.float32).reshape(rows, 2, 3)
    packed = pack_cues(MODEL, values, values > 7)
    pieces = [packed.take(slice(start, start + size)).columns[0] for start in range(0, rows, size)]
    assert (np.concatenate([piece.values for piece in pieces]) == values).all()
    masks = [piece.known for piece in pieces if piece.known is not None]
    assert (np.concatenate(masks) == (values > 7)).all()


def test_values_of_the_other_byte_order_are_the_same_values() -> None:
    values = np.linspace(0, 1, 6).reshape(2, 3)
    for order in ("f8", "f4", "f2"):
        here, there = (pack(MODEL, values.astype(f"{sign}{order}")).columns[0].values for sign in "<>")
        assert here.tobytes() == there.tobytes()


HIDDEN = np.array([[True, False, False], [False, False, True]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
def test_masked_entries_are_missing_in_cues_and_refused_in_stores(dtype: type[np.generic]) -> None:
    values = np.array([[255, 0, 0], [255, 0, 255]]).astype(dtype)
    masked = np.ma.masked_array(values, mask=HIDDEN)
    given: list[Patterns] = [masked, [masked, values], [list(masked)], np.ma.stack([masked, masked])]
    for one in given:
        (column,) = pack_cues(MODEL, one).columns
        first = column.values[0].astype(np.float32)
        assert np.array_equal(np.isnan(first), HIDDEN)
        assert first[1, 0] == (1 if dtype is np.uint8 else 255)
        with pytest.raises(InvalidRequest, match=r"saw [24] masked entries; expected whole patterns"):
            pack(MODEL, one)


def test_what_is_masked_in_known_is_not_known() -> None:
    known = np.ma.masked_array(np.ones((2, 3), np.bool_), mask=HIDDEN)
    mask = pack_cues(MODEL, ZEROS, known).columns[0].known
    assert mask is not None
    assert np.array_equal(mask[0], ~HIDDEN)


def test_masked_characters_are_missing() -> None:
    masked = np.ma.masked_array(np.array([1, 2, 3], np.uint8), mask=[False, True, False])
    assert pack_cues(NOTE, masked).columns[0].values.tolist() == [[1, 255, 3]]
    with pytest.raises(InvalidRequest, match="saw a missing character"):
        pack(NOTE, masked)


def test_each_kind_of_field_has_a_row_and_an_unknown_one_is_a_vector() -> None:
    numbers = {*memories_pb2.FieldKind.values()} - {memories_pb2.FIELD_KIND_UNSPECIFIED}
    assert {kind.number for kind in KINDS.values()} == numbers
    assert tuple(KINDS) == get_args(FieldKind)
    assert {find_kind(number) for number in numbers} == {*KINDS}
    assert find_kind(max(numbers) + 1) == "vector"
