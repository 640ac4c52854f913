"""Arrays of the user to rows of the wire, with every check that needs no server."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from attractor._errors import InvalidRequest
from attractor._text import places, places_of_numbers, texts_in
from attractor._types import Array, FieldInfo, ModelInfo, Patterns
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1.memories_pb2 import Item

Booleans = NDArray[np.bool_]
Masked = np.ma.MaskedArray

_ACCEPTED = "float32, float64, float16, bfloat16 or uint8"


@dataclass(eq=False, slots=True)  # not frozen, nor is Packed: that would double what it costs to make one
class Column:
    """One field of some patterns, as it goes on the wire."""

    field: str
    dtype: pb.DType.ValueType
    values: NDArray[np.generic]  # (rows, *shape), C order, little-endian, a copy of the user's
    known: Booleans | None  # as values

    def rows(self, rows: slice) -> "Column":
        """Some of the rows."""
        return Column(self.field, self.dtype, self.values[rows], None if self.known is None else self.known[rows])


@dataclass(eq=False, slots=True)
class Packed:
    """The patterns of one request: a column for each field given; `single` where the user gave no batch axis."""

    columns: tuple[Column, ...]
    single: bool
    model: ModelInfo
    items: tuple[Item, ...] = ()
    """What the patterns carry, one for each; empty where none carries anything"""

    @property
    def rows(self) -> int:
        """Number of patterns."""
        return len(self.columns[0].values)

    @property
    def sent_bytes(self) -> int:
        """Length on the wire, about."""
        length = 0
        for column in self.columns:
            length += column.values.nbytes
            if column.known is not None:
                length += column.known.size // 8 + 1
        return length + sum(len(item.payload) + 4 * len(item.id) + 16 for item in self.items)

    @property
    def answer_bytes(self) -> int:
        """Length of the completed patterns on the wire, about."""
        return self.rows * self.model._pattern_bytes  # noqa: SLF001 - private to the SDK, not to the class

    def piece(self, rows: slice) -> "Packed":
        """Some of the patterns."""
        return Packed(tuple(column.rows(rows) for column in self.columns), self.single, self.model)


def pack(model: ModelInfo, patterns: Patterns) -> Packed:
    """Whole patterns, to be stored, as the wire takes them.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    return _packed(model, _by_field(model, patterns, "patterns"), {}, "patterns", partial=False)


def pack_cues(model: ModelInfo, cues: Patterns, known: Patterns | None = None, *, where: str = "cues") -> Packed:
    """Cues, of which fields may be left out, as the wire takes them.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    given = _by_field(model, cues, where, partial=True)
    masks = {} if known is None else _by_field(model, known, "known", partial=True)
    for name in masks.keys() - given.keys():
        if np.any(_array(masks.pop(name), f"known[{name}]")):
            raise InvalidRequest.of(
                f"known[{name}]", f"saw entries marked as known; expected {where}[{name}] with them"
            )
    return _packed(model, given, masks, where, partial=True)


def _packed(
    model: ModelInfo, given: Mapping[str, Array], masks: Mapping[str, Array], where: str, *, partial: bool
) -> Packed:
    columns, batched = [], {}
    for field in model.fields:
        if field.name not in given:
            continue
        values, dtype = _values(field, given[field.name], f"{where}[{field.name}]", partial=partial)
        batched[field.name] = _has_batch_axis(values, field, f"{where}[{field.name}]")
        rows = values if batched[field.name] else values[None]
        mask = _mask(masks[field.name], rows, f"known[{field.name}]") if field.name in masks else None
        columns.append(Column(field.name, dtype, rows, mask))
    _check_alike(columns, batched, where)
    return Packed(tuple(columns), single=not any(batched.values()), model=model)


def _by_field(model: ModelInfo, given: Patterns, where: str, *, partial: bool = False) -> dict[str, Array]:
    names = [field.name for field in model.fields]
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise InvalidRequest.of(where, f"saw one array; expected a mapping with the fields {names}")
        return {names[0]: given}
    if not given or set(given) - set(names) or (not partial and len(given) != len(names)):
        expected = f"some of {names}" if partial else f"{names}"
        raise InvalidRequest.of(where, f"saw the fields {[str(name) for name in given]}; expected {expected}")
    return dict(given)


def _values(
    field: FieldInfo, given: Array, where: str, *, partial: bool
) -> tuple[NDArray[np.generic], pb.DType.ValueType]:
    if field.alphabet:
        return _characters(field, given, where, partial=partial), pb.DTYPE_UINT8
    array = _array(given, where)
    if isinstance(array, Masked):
        array = _with_missing(array, field, where, partial=partial)
    if array.dtype.name == "float64":  # of either byte order
        with np.errstate(over="ignore"):  # becomes an infinity, which the server refuses
            array = array.astype(np.float32)
    if (dtype := _WIRE.get(array.dtype)) is not None:
        return array.copy("C"), dtype
    name = array.dtype.name
    if name == "bfloat16" and array.dtype.itemsize == 2:
        return np.array(array, order="C").view(np.uint16), pb.DTYPE_BFLOAT16
    for wire, dtype in _WIRE.items():
        if wire.name == name:  # of the other byte order
            return np.array(array, dtype=wire, order="C"), dtype
    raise InvalidRequest.of(where, f"saw dtype {name}; expected {_ACCEPTED}")


_WIRE: dict[np.dtype[np.generic], pb.DType.ValueType] = {
    np.dtype("<f4"): pb.DTYPE_FLOAT32,
    np.dtype("<f2"): pb.DTYPE_FLOAT16,
    np.dtype("u1"): pb.DTYPE_UINT8,
}


def _characters(field: FieldInfo, given: Array, where: str, *, partial: bool) -> NDArray[np.uint8]:
    if (texts := texts_in(given)) is not None:
        return places(texts, field.alphabet, math.prod(field.shape), where, partial=partial)
    array = _array(given, where)
    if isinstance(array, Masked) and array.dtype.kind in "iuf":
        array = _nan_where_masked(array.data.astype(np.float64), array)
    return places_of_numbers(array, field.alphabet, where, partial=partial)


def _with_missing(array: "Masked[Any, Any]", field: FieldInfo, where: str, *, partial: bool) -> NDArray[np.generic]:
    """The values, NaN where they are masked."""
    values: NDArray[np.generic] = np.asarray(array.data)
    hidden = int(np.ma.getmaskarray(array).sum())
    if not hidden:
        return values
    if not partial:
        raise InvalidRequest.of(where, f"saw {hidden} masked entries; expected whole patterns where they are stored")
    if values.dtype == np.uint8:  # which has no NaN; of an image 255 means 1
        return _nan_where_masked(values.astype(np.float32) / np.float32(255 if field.kind == "image" else 1), array)
    if values.dtype.kind != "f":
        raise InvalidRequest.of(where, f"saw dtype {values.dtype.name}; expected {_ACCEPTED}")
    return _nan_where_masked(values.copy(), array)


def _nan_where_masked(values: NDArray[Any], array: "Masked[Any, Any]") -> NDArray[Any]:
    values[np.ma.getmaskarray(array)] = np.nan
    return values


def _array(given: Array, where: str) -> NDArray[np.generic]:
    """As numpy has it; masked where it, or a row of it, is."""
    try:
        if isinstance(given, Masked):
            return given
        if _has_masked_rows(given):
            stacked: NDArray[np.generic] = np.ma.stack([_array(row, where) for row in given])
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


def _mask(given: Array, rows: NDArray[np.generic], where: str) -> Booleans:
    mask = _array(given, where)
    if isinstance(mask, Masked):
        mask = mask.data & ~np.ma.getmaskarray(mask) if mask.dtype == np.bool_ else mask.data
    if mask.dtype != np.bool_:
        raise InvalidRequest.of(where, f"saw dtype {mask.dtype.name}; expected bool, True where the cue is known")
    if mask.shape not in (rows.shape, rows.shape[1:]):
        raise InvalidRequest.of(where, f"saw shape {mask.shape}; expected {rows.shape[1:]} or {rows.shape}")
    return np.array(np.broadcast_to(mask, rows.shape), dtype=np.bool_)


def _check_alike(columns: list[Column], batched: dict[str, bool], where: str) -> None:
    if len(columns) == 1:
        return
    lengths = {column.field: len(column.values) for column in columns}
    if len(set(lengths.values())) > 1 or len(set(batched.values())) > 1:
        seen = ", ".join(f"{name}: {n if batched[name] else 'a single one'}" for name, n in lengths.items())
        raise InvalidRequest.of(where, f"saw different numbers of patterns ({seen}); expected the same in every field")
