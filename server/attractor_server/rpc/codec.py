"""Tensors on the wire to flat numpy patterns and back, with every check that a caller's bytes need."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise

import numpy as np
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from attractor_proto.traces import TRACE_BYTES
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import InvalidRequest, Violation, quote
from attractor_server.fields import MISSING_INDEX, Field, Layout
from attractor_server.memories.outcomes import Booleans, Floats, Recalled, Recognized
from attractor_server.memories.records import NOTHING
from attractor_server.rpc.long_lists import describe_count
from attractor_server.rpc.messages import encode_items

_DTYPES: dict[pb.DType.ValueType, np.dtype[np.generic]] = {
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_FLOAT16: np.dtype("<f2"),
    pb.DTYPE_BFLOAT16: np.dtype("<u2"),
    pb.DTYPE_UINT8: np.dtype("u1"),
}

_DIMENSIONS_LIMIT = 32

EMPTY: Floats = np.empty(0, np.float32)

DIMENSIONS_SHOWN = 8
"""Dimensions of a refused shape that the error names"""


class Patterns:
    """Decoded rows of one or many requests: values (rows, d) in user units, known (rows, d) or None."""

    def __init__(self, values: Floats, known: Booleans | None) -> None:
        self.values = values
        self.known = known

    def rows(self, rows: slice) -> "Patterns":
        """Return a view of some rows."""
        return Patterns(self.values[rows], None if self.known is None else self.known[rows])


def count_rows(tensors: Sequence[pb.Tensor], *, where: str, patterns_limit: int) -> int:
    """Return the number of patterns in the first tensor; 0 if there is none.

    Raises:
        InvalidRequest: the tensor has none, or more than may be sent.
    """
    if not tensors:
        return 0
    rows = tensors[0].shape[0] if tensors[0].shape else 0
    if not 0 < rows <= patterns_limit:
        raise InvalidRequest.of(f"{where}[0].shape", f"saw {rows} patterns; expected 1 to {patterns_limit}")
    return rows


def decode(layout: Layout, tensors: Sequence[pb.Tensor], *, rows: int, where: str, partial: bool = False) -> Patterns:
    """Return the tensors of all fields side by side; NaN for what is missing from `partial` patterns.

    Only form is checked: fields, dtype, shape, lengths. `check_values` looks at the numbers.

    Raises:
        InvalidRequest: naming the tensor, the value seen and the value expected.
    """
    by_field = _match_fields(layout, tensors, where, partial=partial)
    if len(layout.fields) == 1:
        return _decode_single(layout.fields[0], *by_field[layout.fields[0].name], rows)
    values = np.full((rows, layout.size), np.nan, np.float32)
    known = np.zeros((rows, layout.size), np.bool_) if any(t.known for _, t in by_field.values()) else None
    for field, span in layout.spans:
        if field.name not in by_field:
            continue
        path, tensor = by_field[field.name]
        values[:, span] = _decode_values(field, tensor, rows, path).reshape(rows, field.size)
        if known is not None and tensor.known:
            known[:, span] = _decode_mask(field, tensor, rows, path).reshape(rows, field.size)
    return Patterns(values, known)


def _decode_single(field: Field, path: str, tensor: pb.Tensor, rows: int) -> Patterns:
    """Decode the only field of a layout: its values as they came, where they are float32."""
    values = _decode_values(field, tensor, rows, path).reshape(rows, field.size)
    return Patterns(values, _decode_mask(field, tensor, rows, path).reshape(rows, field.size) if tensor.known else None)


def encode(
    layout: Layout, values: Floats, *, into: "RepeatedCompositeFieldContainer[pb.Tensor]"
) -> None:  # values (rows, d)
    """Add one float32 tensor for each field."""
    for field, span in layout.spans:
        part = np.ascontiguousarray(values[:, span], dtype="<f4")
        shape = (len(values), *field.shape)
        into.add(field=field.name, dtype=pb.DTYPE_FLOAT32, shape=shape, data=part.tobytes())


def encode_scores(recalled: Sequence[Recalled], *, into: pb.Scores) -> None:
    """Add the scores of several answers, one after another."""
    into.energy_before.extend(_concatenate([one.energy_before for one in recalled]))
    into.energy_after.extend(_concatenate([one.energy_after for one in recalled]))
    into.delta_energy.extend(_concatenate([one.delta_energy for one in recalled]))
    into.steps.extend([one.steps for one in recalled for _ in range(len(one.values))])
    into.pages.extend(encode_pages(recalled))
    if any(one.probability is not None for one in recalled):
        parts = [np.full(len(one.values), np.nan) if one.probability is None else one.probability for one in recalled]
        into.probability.extend(_concatenate(parts))


def encode_matches(layout: Layout, recalled: Sequence[Recalled], *, into: pb.Matches) -> None:
    """Add the matches of several answers, one after another, where they were asked for: as many for each, all alike."""
    found = [one.matches for one in recalled if one.matches is not None]
    if not found:
        return
    encode(layout, np.concatenate([one.values for one in found]), into=into.tensors)
    into.distances.extend(_concatenate([one.distances for one in found]))
    into.each = found[0].each
    into.probability.extend(_concatenate([one.probability for one in found if one.probability is not None] or [EMPTY]))
    items = [item for one in found for item in one.items]
    if any(item != NOTHING for item in items):
        into.items.extend(encode_items(items))


def _concatenate(parts: Sequence[Floats]) -> list[float]:
    column: list[float] = np.concatenate(parts).tolist()
    return column


def encode_pages(answers: Sequence[Recalled] | Sequence[Recognized]) -> list[int]:
    """Return the page that answered each pattern of several answers; nothing where that is page 0 for all."""
    if all(one.pages is None for one in answers):
        return []
    columns = [np.zeros(len(one.delta_energy), np.int64) if one.pages is None else one.pages for one in answers]
    column = np.concatenate(columns)
    return column.tolist() if column.any() else []


def encode_probabilities(recognized: Recognized) -> list[float]:
    """Return a probability for each pattern; nothing where the model is not calibrated."""
    return [] if recognized.probability is None else recognized.probability.tolist()


def check_columns(columns: pb.RequestColumns, *, where: str, patterns_limit: int) -> list[slice]:
    """Return the rows of each request of a frame.

    Raises:
        InvalidRequest: the arrays disagree, or ask for too much.
    """
    count = len(columns.request_ids)
    problems = [
        Violation(
            f"{where}.{name}",
            f"saw {describe_count(len(array))} entries; expected {count}, one for each of request_ids",
        )
        for name, array in (("handles", columns.handles), ("patterns", columns.patterns))
        if len(array) != count
    ]
    if len(columns.deadline_ms) not in (0, count):
        seen = describe_count(len(columns.deadline_ms))
        problems.append(Violation(f"{where}.deadline_ms", f"saw {seen} entries; expected none, or {count}"))
    if len(columns.trace_parents) not in (0, TRACE_BYTES * count):
        told = f"saw {len(columns.trace_parents)} bytes; expected none, or {TRACE_BYTES * count}"
        problems.append(Violation(f"{where}.trace_parents", told))
    if problems:
        raise InvalidRequest(*problems)  # before any array of millions is looked at
    if 0 in (patterns := list(columns.patterns)):
        problems.append(Violation(f"{where}.patterns", "saw 0 patterns for a request; expected at least 1 each"))
    if (total := sum(patterns)) > patterns_limit:
        problems.append(Violation(f"{where}.patterns", f"saw {total} patterns; expected at most {patterns_limit}"))
    if problems:
        raise InvalidRequest(*problems)
    return [slice(start, end) for start, end in pairwise(accumulate(patterns, initial=0))]


def check_form(tensors: Sequence[pb.Tensor], *, where: str, rows: int) -> None:
    """Refuse tensors that are malformed whatever model they are for: they can be cut by rows only if they agree.

    Raises:
        InvalidRequest: naming the tensor, the value seen and the value expected.
    """
    for i, tensor in enumerate(tensors):
        path = f"{where}[{i}]"
        dtype = _read_dtype(tensor, _DTYPES, path)
        if tensor.shape[:1] != [rows]:
            seen = f"saw {quote(tuple(tensor.shape))}"
            raise InvalidRequest.of(f"{path}.shape", f"{seen}; expected {rows} patterns, a row for each")
        if len(tensor.shape) > _DIMENSIONS_LIMIT:
            seen = f"saw {len(tensor.shape)} dimensions"
            raise InvalidRequest.of(f"{path}.shape", f"{seen}; expected at most {_DIMENSIONS_LIMIT}")
        entries = math.prod(tensor.shape)
        if len(tensor.data) != (length := entries * dtype.itemsize):
            expected = f"{length} for {quote(tuple(tensor.shape))} of {pb.DType.Name(tensor.dtype)}"
            raise InvalidRequest.of(f"{path}.data", f"saw {len(tensor.data)} bytes; expected {expected}")
        if tensor.known:
            _check_mask(tensor, entries, path)


def select(
    columns: pb.RequestColumns, rows: Sequence[slice], chosen: Sequence[int], *, into: pb.RequestColumns
) -> None:
    """Put the columns of the chosen requests alone into an empty message. Their masks are packed anew.

    The tensors are those that `check_form` lets pass.
    """
    index = [row for request in chosen for row in range(rows[request].start, rows[request].stop)]
    into.request_ids.extend([columns.request_ids[i] for i in chosen])
    into.handles.extend([columns.handles[i] for i in chosen])
    into.patterns.extend([columns.patterns[i] for i in chosen])
    if columns.deadline_ms:
        into.deadline_ms.extend([columns.deadline_ms[i] for i in chosen])
    if parents := columns.trace_parents:
        into.trace_parents = b"".join([parents[TRACE_BYTES * i : TRACE_BYTES * (i + 1)] for i in chosen])
    total = sum(columns.patterns)
    for tensor in columns.tensors:
        into.tensors.append(_select_rows(tensor, total, index))


def _select_rows(tensor: pb.Tensor, total: int, index: list[int]) -> pb.Tensor:
    size = math.prod(tensor.shape[1:])
    data = np.frombuffer(tensor.data, np.uint8).reshape(total, -1)[index].tobytes() if size else b""
    known = b""
    if tensor.known:
        bits = np.unpackbits(np.frombuffer(tensor.known, np.uint8), count=total * size, bitorder="little")
        known = np.packbits(bits.reshape(total, size)[index], bitorder="little").tobytes()
    return pb.Tensor(
        field=tensor.field, dtype=tensor.dtype, shape=[len(index), *tensor.shape[1:]], data=data, known=known
    )


def _match_fields(
    layout: Layout, tensors: Sequence[pb.Tensor], where: str, *, partial: bool
) -> dict[str, tuple[str, pb.Tensor]]:
    """Return each tensor, with its path in the request, under the name of its field."""
    expected = [field.name for field in layout.fields]
    found: dict[str, tuple[str, pb.Tensor]] = {}
    for i, tensor in enumerate(tensors):
        path = f"{where}[{i}]"
        name = tensor.field or (expected[0] if len(expected) == 1 else "")
        if name not in expected:
            raise InvalidRequest.of(f"{path}.field", f"saw {quote(tensor.field)}; expected one of {expected}")
        if name in found:
            raise InvalidRequest.of(f"{path}.field", f"saw {name!r} a second time; expected each field once")
        found[name] = (path, tensor)
    if partial and not found:
        raise InvalidRequest.of(where, f"saw no tensor; expected at least one of the fields {expected}")
    if not partial and (missing := [name for name in expected if name not in found]):
        raise InvalidRequest.of(where, f"saw no tensor for {missing}; expected all fields: {expected}")
    return found


@cache
def _dtypes_of(names: tuple[str, ...]) -> Mapping[pb.DType.ValueType, np.dtype[np.generic]]:
    """Return the types of these names by their numbers on the wire."""
    numbers = [pb.DType.Value(f"DTYPE_{name.upper()}") for name in names]
    return {number: _DTYPES[number] for number in numbers}


def _read_dtype(
    tensor: pb.Tensor, dtypes: Mapping[pb.DType.ValueType, np.dtype[np.generic]], path: str, *, meant: str = ""
) -> np.dtype[np.generic]:
    if (dtype := dtypes.get(tensor.dtype)) is None:
        known = [pb.DType.Name(number) for number in dtypes]
        raise InvalidRequest.of(f"{path}.dtype", f"saw {tensor.dtype}; expected one of {known}{meant}")
    return dtype


def _decode_values(field: Field, tensor: pb.Tensor, rows: int, path: str) -> Floats:
    kind = field.traits
    dtype = _read_dtype(tensor, _dtypes_of(kind.dtypes), path, meant=f" for {field.kind} {field.name!r}")
    expected = (rows, *field.shape)
    if len(tensor.shape) != len(expected) or tuple(tensor.shape) != expected:
        more = "" if len(tensor.shape) <= DIMENSIONS_SHOWN else f" and {len(tensor.shape) - DIMENSIONS_SHOWN} more"
        raise InvalidRequest.of(
            f"{path}.shape",
            f"saw {quote(tuple(tensor.shape[:DIMENSIONS_SHOWN]))}{more}; expected {expected} for {field.name!r}",
        )
    length = rows * field.size * dtype.itemsize
    if len(tensor.data) != length:
        name = pb.DType.Name(tensor.dtype)
        raise InvalidRequest.of(
            f"{path}.data", f"saw {len(tensor.data)} bytes; expected {length} for {expected} of {name}"
        )
    raw = np.frombuffer(tensor.data, dtype)
    if tensor.dtype == pb.DTYPE_BFLOAT16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    values = raw.astype(np.float32, copy=False)
    if field.has_codes:
        values[raw == MISSING_INDEX] = np.nan
    return values / np.float32(kind.uint8_unit) if tensor.dtype == pb.DTYPE_UINT8 and kind.uint8_unit != 1 else values


def _decode_mask(field: Field, tensor: pb.Tensor, rows: int, path: str) -> Booleans:
    entries = rows * field.size
    _check_mask(tensor, entries, path)
    bits = np.unpackbits(np.frombuffer(tensor.known, np.uint8), count=entries, bitorder="little")
    return bits.astype(np.bool_)


def _check_mask(tensor: pb.Tensor, entries: int, path: str) -> None:
    length = (entries + 7) // 8
    if len(tensor.known) != length:
        raise InvalidRequest.of(
            f"{path}.known", f"saw {len(tensor.known)} bytes; expected {length}, a bit for each of {entries} entries"
        )
