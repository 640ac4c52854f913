"""Arrays to columns of a frame, with every check that needs no server."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from attractor._errors import InvalidRequest
from attractor._text import MISSING_INDEX, check_indices, encode_texts, find_texts
from attractor._types import KINDS, Array, FieldInfo, Kind, ModelInfo, Patterns
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1.memories_pb2 import Item

Booleans = NDArray[np.bool_]
Masked = np.ma.MaskedArray

_WIRE: dict[np.dtype[np.generic], pb.DType.ValueType] = {
    np.dtype("<f4"): pb.DTYPE_FLOAT32,
    np.dtype("<f2"): pb.DTYPE_FLOAT16,
    np.dtype("u1"): pb.DTYPE_UINT8,
}


@dataclass(eq=False, slots=True)  # not frozen, nor is PackedPatterns: that would double what it costs to make one
class Column:
    """Values of one field, as they are sent."""

    field: str
    dtype: pb.DType.ValueType
    values: NDArray[np.generic]  # (rows, *shape), C order, little-endian, a copy of the user's
    known: Booleans | None  # as values
    is_text: bool = False

    def take(self, rows: slice) -> "Column":
        """Return some of the rows."""
        known = None if self.known is None else self.known[rows]
        return Column(self.field, self.dtype, self.values[rows], known, self.is_text)


@dataclass(eq=False, slots=True)
class PackedPatterns:
    """Patterns of one request: a column for each field given; `single` where there was no batch axis."""

    columns: tuple[Column, ...]
    single: bool
    model: ModelInfo
    items: tuple[Item, ...] = ()
    """Ids and payloads, one for each pattern; empty where there are none"""

    @property
    def rows(self) -> int:
        """Number of patterns."""
        return len(self.columns[0].values)

    @property
    def sent_bytes(self) -> int:
        """Approximate length in a message."""
        length = 0
        for column in self.columns:
            length += column.values.nbytes
            if column.known is not None:
                length += column.known.size // 8 + 1
        return length + sum(len(item.payload) + 4 * (len(item.id) + len(item.text)) + 16 for item in self.items)

    @property
    def result_bytes(self) -> int:
        """Approximate length of the completed patterns in a message."""
        return self.rows * self.model._pattern_bytes  # noqa: SLF001 - private to the SDK, not to the class

    def take(self, rows: slice) -> "PackedPatterns":
        """Return some of the patterns, without ids and payloads."""
        return PackedPatterns(tuple(column.take(rows) for column in self.columns), self.single, self.model)


def pack(model: ModelInfo, patterns: Patterns) -> PackedPatterns:
    """Check and pack whole patterns, to be stored.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    return _pack_fields(model, _split_fields(model, patterns, "patterns"), {}, "patterns", partial=False)


def pack_cues(
    model: ModelInfo, cues: Patterns, known: Patterns | Literal[False] | None = None, *, where: str = "cues"
) -> PackedPatterns:
    """Check and pack cues, of which fields may be left out.

    `known` None marks all that a cue with gaps gives, and nothing of a cue without; False marks nothing at all.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    given = _split_fields(model, cues, where, partial=True)
    if known is None:
        packed = _pack_fields(model, given, {}, where, partial=True)
        _mark_given(packed)
        return packed
    masks = {} if known is False else _split_fields(model, known, "known", partial=True)
    for name in masks.keys() - given.keys():
        if np.any(_to_array(masks.pop(name), f"known[{name}]")):
            raise InvalidRequest.of(
                f"known[{name}]", f"saw entries marked as known; expected {where}[{name}] with them"
            )
    return _pack_fields(model, given, masks, where, partial=True)


def _pack_fields(
    model: ModelInfo, given: Mapping[str, Array], masks: Mapping[str, Array], where: str, *, partial: bool
) -> PackedPatterns:
    columns, batched = [], {}
    for field in model.fields:
        if field.name not in given:
            continue
        values, dtype = _encode_values(field, given[field.name], f"{where}[{field.name}]", partial=partial)
        batched[field.name] = _has_batch_axis(values, field, f"{where}[{field.name}]")
        rows = values if batched[field.name] else values[None]
        mask = _to_mask(masks[field.name], rows, f"known[{field.name}]") if field.name in masks else None
        columns.append(Column(field.name, dtype, rows, mask, KINDS[field.kind].has_alphabet))
    _check_lengths(columns, batched, where)
    return PackedPatterns(tuple(columns), single=not any(batched.values()), model=model)


def _mark_given(packed: PackedPatterns) -> None:
    """Mark what cues with gaps give as known; make no mask where no cue has a gap."""
    missing = [find_missing(column) for column in packed.columns]
    left_out = len(packed.columns) < len(packed.model.fields)
    if not left_out and all(one is None for one in missing):
        return
    with_gaps = np.full(packed.rows, left_out)
    for one in missing:
        if one is not None:
            with_gaps |= one.any(axis=tuple(range(1, one.ndim)))
    for column, one in zip(packed.columns, missing, strict=True):
        known = np.ones(column.values.shape, np.bool_) if one is None else ~one
        column.known = known & with_gaps.reshape(-1, *(1,) * (known.ndim - 1))


def find_missing(column: Column) -> Booleans | None:
    """Mark the missing entries of a column; None where there are none."""
    values = column.values
    match column.dtype:
        case pb.DTYPE_UINT8:  # of an image without gaps, or the indices of a text
            missing = values == MISSING_INDEX if column.is_text else None
        case pb.DTYPE_BFLOAT16:
            missing = (values.view(np.uint16) & np.uint16(0x7FFF)) > np.uint16(0x7F80)
        case _:
            missing = np.isnan(values)
    return missing if missing is not None and missing.any() else None


def _split_fields(model: ModelInfo, given: Patterns, where: str, *, partial: bool = False) -> dict[str, Array]:
    names = [field.name for field in model.fields]
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise InvalidRequest.of(where, f"saw one array; expected a mapping with the fields {names}")
        return {names[0]: given}
    if not given or set(given) - set(names) or (not partial and len(given) != len(names)):
        expected = f"some of {names}" if partial else f"{names}"
        raise InvalidRequest.of(where, f"saw the fields {[str(name) for name in given]}; expected {expected}")
    return dict(given)


def _encode_values(
    field: FieldInfo, given: Array, where: str, *, partial: bool
) -> tuple[NDArray[np.generic], pb.DType.ValueType]:
    kind = KINDS[field.kind]
    if kind.has_alphabet:
        return _encode_text(field, given, where, partial=partial), pb.DTYPE_UINT8
    array = _to_array(given, where)
    if isinstance(array, Masked):
        array = _fill_masked(array, kind, where, partial=partial)
    if (name := array.dtype.name) not in kind.dtypes:
        raise _make_dtype_error(name, kind, where)
    if name == "float64":  # of either byte order
        with np.errstate(over="ignore"):  # becomes an infinity, which the server refuses
            array = array.astype(np.float32)
    if (dtype := _WIRE.get(array.dtype)) is not None:
        return array.copy("C"), dtype
    if name == "bfloat16" and array.dtype.itemsize == 2:
        return np.array(array, order="C").view(np.uint16), pb.DTYPE_BFLOAT16
    for wire, dtype in _WIRE.items():
        if wire.name == name:  # of the other byte order
            return np.array(array, dtype=wire, order="C"), dtype
    raise _make_dtype_error(name, kind, where)


def _make_dtype_error(name: str, kind: Kind, where: str) -> InvalidRequest:
    *others, last = kind.dtypes
    return InvalidRequest.of(where, f"saw dtype {name}; expected {', '.join(others)} or {last}")


def _encode_text(field: FieldInfo, given: Array, where: str, *, partial: bool) -> NDArray[np.uint8]:
    if (texts := find_texts(given)) is not None:
        return encode_texts(texts, field.alphabet, math.prod(field.shape), where, partial=partial)
    array = _to_array(given, where)
    if isinstance(array, Masked) and array.dtype.kind in "iuf":
        array = _set_nan(array.data.astype(np.float64), array)
    return check_indices(array, field.alphabet, where, partial=partial)


def _fill_masked(array: "Masked[Any, Any]", kind: Kind, where: str, *, partial: bool) -> NDArray[np.generic]:
    """Return the values, NaN where they are masked."""
    values: NDArray[np.generic] = np.asarray(array.data)
    hidden = int(np.ma.getmaskarray(array).sum())
    if not hidden:
        return values
    if not partial:
        raise InvalidRequest.of(where, f"saw {hidden} masked entries; expected whole patterns where they are stored")
    if values.dtype == np.uint8:  # which has no NaN
        return _set_nan(values.astype(np.float32) / np.float32(kind.uint8_unit), array)
    if values.dtype.kind != "f":
        raise _make_dtype_error(values.dtype.name, kind, where)
    return _set_nan(values.copy(), array)


def _set_nan(values: NDArray[Any], array: "Masked[Any, Any]") -> NDArray[Any]:
    values[np.ma.getmaskarray(array)] = np.nan
    return values


def _to_array(given: Array, where: str) -> NDArray[np.generic]:
    """Return a numpy array, masked where the value, or a row of it, is."""
    try:
        if isinstance(given, Masked):
            return given
        if _has_masked_rows(given):
            stacked: NDArray[np.generic] = np.ma.stack([_to_array(row, where) for row in given])
            return stacked
        return np.asarray(given)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever the user's own __array__ raises
        raise InvalidRequest.of(where, f"saw {type(given).__name__}, which numpy cannot take ({error})") from error


def _has_masked_rows(given: object) -> TypeGuard[Sequence[Any]]:
    if not isinstance(given, list | tuple):
        return False
    return any(isinstance(row, Masked) or _has_masked_rows(row) for row in given)


def _has_batch_axis(values: NDArray[np.generic], field: FieldInfo, where: str) -> bool:
    if values.shape == field.shape:
        return False
    if values.shape[1:] != field.shape or not values.ndim:
        batch = ", ".join(["patterns", *map(str, field.shape)])
        raise InvalidRequest.of(where, f"saw shape {values.shape}; expected {field.shape} or ({batch})")
    if not len(values):
        raise InvalidRequest.of(where, "saw an empty batch; expected at least 1 pattern")
    return True


def _to_mask(given: Array, rows: NDArray[np.generic], where: str) -> Booleans:
    mask = _to_array(given, where)
    if isinstance(mask, Masked):
        mask = mask.data & ~np.ma.getmaskarray(mask) if mask.dtype == np.bool_ else mask.data
    if mask.dtype != np.bool_:
        raise InvalidRequest.of(where, f"saw dtype {mask.dtype.name}; expected bool, True where the cue is known")
    if mask.shape not in (rows.shape, rows.shape[1:]):
        raise InvalidRequest.of(where, f"saw shape {mask.shape}; expected {rows.shape[1:]} or {rows.shape}")
    return np.array(np.broadcast_to(mask, rows.shape), dtype=np.bool_)


def _check_lengths(columns: list[Column], batched: dict[str, bool], where: str) -> None:
    if len(columns) == 1:
        return
    lengths = {column.field: len(column.values) for column in columns}
    if len(set(lengths.values())) > 1 or len(set(batched.values())) > 1:
        seen = ", ".join(f"{name}: {n if batched[name] else 'a single one'}" for name, n in lengths.items())
        raise InvalidRequest.of(where, f"saw different numbers of patterns ({seen}); expected the same in every field")
