"""Strategies for requests of all services: of the right structure, most values plausible, some not.

They follow the descriptors, so that what the contract gains is drawn without a line here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attractor_proto.v1 import memory_data_pb2 as pb

SHAPE = (4, 4)
"""Of a pattern of the models that memories here are of"""
MEMORIES = ("fuzz/a", "fuzz/b", "fuzz/c", "fuzz/d")
VICTIMS = tuple(f"victim/{at}" for at in range(4))
"""Memories of somebody else"""
MODELS = ("able", "tiny")
TAGS = ("x", "y")
_SHAPES: Sequence[list[int]] = (
    [1, *SHAPE],
    [2, *SHAPE],
    [5, *SHAPE],
    [0, *SHAPE],
    [1, 16],
    [4, 4],
    [1, 4, 4, 1],
    [],
    [1, 1 << 31, 4],
    [7],
)
_EDGES = {
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2, 3, 255, 1 << 16, 1 << 31, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2, 3, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 999_999_999, 1_000_000_000, -(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 253_402_300_800, -(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, 1.0, 60.0, 1e-9, -1.0, 2.3e11, 2.6e11, 1e12, 1e308, np.inf, -np.inf, np.nan),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, 1.0, -1.0, 3e38, np.inf, np.nan),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
}
_WORDS = ("", "a", "..", "a//b", "/", "a\0b", "é", "x" * 300, "%2f", "-rf", "\u202e", "fuzz/a@x", "@hidden")
_BYTES = (b"", b"\0", b"{}", b'"\\ud800"', b"[" * 2000, b"9" * 5000, b"NaN", b"\xff\xfe{\0}\0", b'{"a": 1e999}')


def requests_of(kind: type[Message]) -> SearchStrategy[Message]:
    """Draw messages of a class."""
    return _messages(cast(Descriptor, kind.DESCRIPTOR))


@cache
def _messages(descriptor: Descriptor) -> SearchStrategy[Message]:
    if descriptor is pb.Tensor.DESCRIPTOR:
        return _tensors()
    if descriptor is pb.RequestColumns.DESCRIPTOR:
        return st.one_of(_columns(), _plain(descriptor))
    return _plain(descriptor)


def _plain(descriptor: Descriptor) -> SearchStrategy[Message]:
    kind = GetMessageClass(descriptor)
    alternatives = [oneof.fields for oneof in descriptor.oneofs]
    alone = [field for field in descriptor.fields if field.containing_oneof is None]
    drawn = st.fixed_dictionaries({}, optional={field.name: _values(field) for field in alone})
    chosen = [st.one_of([_single(field) for field in fields]) for fields in alternatives if fields]
    return st.tuples(drawn, *chosen).map(
        lambda parts: kind(**{key: one for part in parts for key, one in part.items()})
    )


def _single(field: FieldDescriptor) -> SearchStrategy[Mapping[str, object]]:
    return st.deferred(lambda: _values(field)).map(lambda value: {field.name: value})


@cache
def _values(field: FieldDescriptor) -> SearchStrategy[object]:
    if field.is_repeated:
        return st.lists(_value(field), max_size=3)
    return _value(field)


def _value(field: FieldDescriptor) -> SearchStrategy[object]:
    if (inner := field.message_type) is not None:
        return st.deferred(lambda: _messages(inner))
    if field.enum_type is not None:
        return st.sampled_from([*field.enum_type.values_by_number, 99])
    likely = _LIKELY.get(field.name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        edges: Sequence[object] = _BYTES if field.type == FieldDescriptor.TYPE_BYTES else _WORDS
    else:
        edges = _EDGES[field.cpp_type]
    if likely is None:
        return st.sampled_from(edges)
    rare, often = st.sampled_from(edges), st.sampled_from(likely)
    return st.integers(0, 9).flatmap(lambda at: rare if at == 0 else often)


_LIKELY: Mapping[str, Sequence[object]] = {
    "name": (*2 * MEMORIES, VICTIMS[0], "victim/new"),
    "memory": (*2 * MEMORIES, VICTIMS[1], "victim/new"),
    "target": (*2 * MEMORIES, VICTIMS[2], "victim/new"),
    "prefix": ("", "fuzz/", "nobody/", "v", "victim/"),
    "page_token": ("", *MEMORIES),
    "model": ("", *MODELS),
    "tag": TAGS,
    "client_id": ("fuzz", "fuzz too"),
    "sequence": (1, 2, 3, 4),
    "sequences": (0, 1, 2, 3),
    "protocol_version": (1,),
    "handle": (1, 2),
    "handles": (1, 2),
    "request_ids": (1, 2, 3, 4),
    "request_id": (1, 2, 3, 4),
    "patterns": (1, 2),
    "page_patterns": (0, 1, 2, 3),
    "steps": (0, 1, 4),
    "deadline_ms": (0, 1000),
    "shards": (1, 2),
    "ttl_s": (0.0, 60.0, 3600.0),
}
"""By the name of a field what can mostly be meant there"""


@st.composite
def _tensors(draw: st.DrawFn) -> pb.Tensor:
    """Draw a tensor whose bytes fit its shape, and its shape a pattern, nine times of ten each."""
    off = draw(st.integers(0, 9))
    shape = draw(st.sampled_from(_SHAPES)) if off == 0 else [draw(st.integers(1, 3)), *SHAPE]
    dtype = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 0, 99]))
    width = {1: 4, 2: 2, 3: 2, 4: 1}.get(dtype, 4)
    count = min(int(np.prod([min(size, 4096) for size in shape], dtype=np.int64)), 4096)
    values = np.random.default_rng(draw(st.integers(0, 99))).random(count, dtype=np.float32)
    if off == 1:
        values[:1] = draw(st.sampled_from([np.nan, np.inf, 1e38, -1e38, 1e-40]))
    with np.errstate(all="ignore"):
        data = values.astype({4: "<f4", 2: "<f2", 1: "u1"}[width], casting="unsafe").tobytes()
    data = data[: draw(st.sampled_from([0, 1, len(data) - 1]))] if off == 2 else data
    known = draw(st.sampled_from([b"", b"\xff" * ((count + 7) // 8), b"\x0f" * ((count + 7) // 8), b"\1"]))
    field = draw(st.sampled_from(["", "", "", "image", "image", "nobody"]))
    return pb.Tensor(field=field, dtype=cast(Any, dtype), shape=shape, data=data, known=known if off > 6 else b"")


@st.composite
def _columns(draw: st.DrawFn) -> pb.RequestColumns:
    """Draw columns that agree with one another, and with their tensors."""
    count = draw(st.integers(1, 3))
    rows = draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
    ids = draw(st.lists(st.integers(1, 1 << 40), min_size=count, max_size=count, unique=True))
    handles = draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
    values = np.random.default_rng(draw(st.integers(0, 99))).random((sum(rows), *SHAPE), dtype=np.float32)
    tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=values.shape, data=values.tobytes())
    return pb.RequestColumns(request_ids=ids, handles=handles, patterns=rows, tensors=[tensor])
