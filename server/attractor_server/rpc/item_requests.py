"""Items in requests: ids, filters, and the treatment of ids that a memory has."""

from collections.abc import Mapping, Sequence

from attractor_proto.names import ITEM_ID_LIMIT, PAYLOAD_LIMIT_BYTES
from attractor_proto.v1 import memory_data_pb2 as data_pb
from attractor_proto.v1 import memory_items_pb2 as pb
from attractor_server.errors import InvalidRequest, quote
from attractor_server.memories.filters import EVERYTHING, Comparison, Condition, Filter, Json, parse_path
from attractor_server.memories.items import ByFilter, ByIds, ItemChoice, OnConflict
from attractor_server.memories.model_card import ModelCard
from attractor_server.rpc.messages import read_json

IDS_LIMIT = 1000

CONDITIONS_LIMIT = 32

PATH_LIMIT = 256

NESTING = 100
"""Levels of lists and objects in a value that payloads are compared with"""

_COMPARISONS: Mapping[pb.Comparison.ValueType, Comparison] = {
    pb.COMPARISON_EQ: "eq",
    pb.COMPARISON_NE: "ne",
    pb.COMPARISON_GT: "gt",
    pb.COMPARISON_GTE: "gte",
    pb.COMPARISON_LT: "lt",
    pb.COMPARISON_LTE: "lte",
    pb.COMPARISON_IN: "in",
    pb.COMPARISON_EXISTS: "exists",
    pb.COMPARISON_CONTAINS: "contains",
}

_ON_CONFLICT: Mapping[data_pb.OnConflict.ValueType, OnConflict] = {
    data_pb.ON_CONFLICT_APPEND: "append",
    data_pb.ON_CONFLICT_REPLACE: "replace",
    data_pb.ON_CONFLICT_REFUSE: "refuse",
    data_pb.ON_CONFLICT_KEEP: "keep",
}


def read_on_conflict(number: data_pb.OnConflict.ValueType, where: str) -> OnConflict:
    """Return what a store asks for; unspecified is to append.

    Raises:
        InvalidRequest: there is no such treatment.
    """
    if number and number not in _ON_CONFLICT:
        known = ", ".join(f"{one} ({word})" for one, word in _ON_CONFLICT.items())
        raise InvalidRequest.of(where, f"saw {number}; expected {known}, or 0 (unspecified)")
    return _ON_CONFLICT[number] if number else "append"


def read_unless_similar(given: float, on_conflict: OnConflict, model: ModelCard, where: str) -> float:
    """Return the cosine from which on a store leaves a pattern out; 0 for none.

    Raises:
        InvalidRequest: it is no such cosine, or cannot be meant with the other options or that model.
    """
    if not given:
        return 0.0
    if not 0 < given <= 1:
        raise InvalidRequest.of(where, f"saw {given:g}; expected a cosine above 0, at most 1, or 0 (unspecified)")
    if on_conflict != "append":
        raise InvalidRequest.of(where, f"saw {given:g} with on_conflict {on_conflict}; expected append")
    if texts := [field.name for field in model.layout.fields if field.has_codes]:
        raise InvalidRequest.of(where, f"saw {given:g}; expected 0: texts, as {texts[0]!r}, have no cosine")
    return given


def check_ids(ids: Sequence[str], where: str) -> None:
    """Refuse ids that no item can have, and too many or none of them.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not 0 < len(ids) <= IDS_LIMIT:
        raise InvalidRequest.of(where, f"saw {len(ids)} of them; expected 1 to {IDS_LIMIT}")
    for at, name in enumerate(ids):
        if not 0 < len(name) <= ITEM_ID_LIMIT or "\0" in name:
            seen = f"saw {quote(name)}, {len(name)} characters"
            raise InvalidRequest.of(f"{where}[{at}]", f"{seen}; expected 1 to {ITEM_ID_LIMIT}, none of them U+0000")


def read_choice(request: pb.ItemsEraseRequest) -> ItemChoice:
    """Return what is to be erased.

    Raises:
        InvalidRequest: it is not named by ids or else by conditions.
    """
    if bool(request.ids) == bool(request.filter.all):
        seen = f"saw {len(request.ids)} ids and {len(request.filter.all)} conditions of a filter"
        raise InvalidRequest.of("ids", f"{seen}; expected ids, or else conditions")
    if not request.ids:
        return ByFilter(read_filter(request.filter))
    check_ids(request.ids, "ids")
    return ByIds(frozenset(request.ids))


def read_filter(message: pb.Filter, where: str = "filter") -> Filter:
    """Return the filter.

    Raises:
        InvalidRequest: naming the field of a condition that cannot be meant, the value seen and the value expected.
    """
    if len(message.all) > CONDITIONS_LIMIT:
        raise InvalidRequest.of(
            f"{where}.all", f"saw {len(message.all)} conditions; expected at most {CONDITIONS_LIMIT}"
        )
    if not message.all:
        return EVERYTHING
    return Filter([_read_condition(one, f"{where}.all[{at}]") for at, one in enumerate(message.all)])


def _read_condition(message: pb.Condition, where: str) -> Condition:
    if not 0 < len(message.path) <= PATH_LIMIT:
        seen = f"saw {quote(message.path)}, {len(message.path)} characters"
        raise InvalidRequest.of(f"{where}.path", f"{seen}; expected 1 to {PATH_LIMIT}")
    try:
        path = parse_path(message.path)
    except ValueError as error:
        expected = r"expected names separated by '.', and '\.' or '\\' in a name"
        raise InvalidRequest.of(f"{where}.path", f"saw {quote(message.path)}, with {error}; {expected}") from None
    if (comparison := _COMPARISONS.get(message.comparison)) is None:
        known = ", ".join(f"{number} ({word})" for number, word in _COMPARISONS.items())
        raise InvalidRequest.of(f"{where}.comparison", f"saw {message.comparison}; expected one of {known}")
    value = _read_value(message.value, f"{where}.value")
    if expected := _misses(comparison, value):
        raise InvalidRequest.of(f"{where}.value", f"saw {quote(value)} for {comparison}; expected {expected}")
    return Condition(path, comparison, value)


def _read_value(content: bytes, where: str) -> Json:
    if len(content) > PAYLOAD_LIMIT_BYTES:
        raise InvalidRequest.of(where, f"saw {len(content)} bytes; expected at most {PAYLOAD_LIMIT_BYTES}")
    try:
        value, depth = read_json(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of(where, f"saw bytes that are no JSON ({quote(str(error))}); expected JSON") from None
    if depth > NESTING:
        raise InvalidRequest.of(where, f"saw JSON of {depth} levels; expected at most {NESTING}")
    return value


def _misses(comparison: Comparison, value: Json) -> str:
    """Say what a comparison expects instead of that value; "" where it takes it."""
    if comparison in ("gt", "gte", "lt", "lte") and (
        isinstance(value, bool) or not isinstance(value, int | float | str)
    ):
        return "a number or a text"
    if comparison == "in" and not isinstance(value, list):
        return "a list"
    if comparison == "exists" and not isinstance(value, bool):
        return "true or false"
    return ""
