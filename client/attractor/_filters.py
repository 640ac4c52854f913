"""Filters over payloads, to messages."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from attractor._arguments import check_text
from attractor._errors import InvalidRequest
from attractor_proto.v1 import memory_items_pb2 as pb

Filter: TypeAlias = Mapping[str, Any]
"""Conditions on payloads of JSON that all have to hold, by path: `{"kind": "note", "user.age": {"$gte": 18}}`.

A path has the names of nested members, separated by '.'; `\\.` is a dot in a name. A value is to be equal; a mapping
has one or more of `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`, `$in`, `$exists` and `$contains`. Types count: 1 equals
1.0, and neither equals "1" or True.
"""

_COMPARISONS = {
    "$eq": pb.COMPARISON_EQ,
    "$ne": pb.COMPARISON_NE,
    "$gt": pb.COMPARISON_GT,
    "$gte": pb.COMPARISON_GTE,
    "$lt": pb.COMPARISON_LT,
    "$lte": pb.COMPARISON_LTE,
    "$in": pb.COMPARISON_IN,
    "$exists": pb.COMPARISON_EXISTS,
    "$contains": pb.COMPARISON_CONTAINS,
}


def encode_filter(where: Filter | None, argument: str = "where") -> pb.Filter:
    """Return the message of a filter, given as an argument of that name; that of None matches everything.

    Raises:
        InvalidRequest: naming the argument, the value seen and the value expected.
    """
    if where is None:
        return pb.Filter()
    if not isinstance(where, Mapping):
        raise InvalidRequest.of(argument, f"saw {type(where).__name__}; expected a mapping of paths to values")
    return pb.Filter(all=[one for path, wanted in where.items() for one in _encode_conditions(argument, path, wanted)])


def _encode_conditions(argument: str, path: Any, wanted: Any) -> Iterator[pb.Condition]:  # noqa: ANN401 - whatever the user gave
    check_text(argument, path)
    operators = [key for key in wanted if isinstance(key, str) and key.startswith("$")] if _is_mapping(wanted) else []
    if not operators:
        yield _encode_condition(argument, path, "$eq", wanted)
        return
    for operator, value in wanted.items():
        if operator not in _COMPARISONS:
            expected = f"expected some of {', '.join(_COMPARISONS)}, or a value"
            raise InvalidRequest.of(f"{argument}[{path!r}]", f"saw {operator!r}; {expected}")
        yield _encode_condition(argument, path, operator, value)


def _encode_condition(argument: str, path: str, operator: str, value: Any) -> pb.Condition:  # noqa: ANN401
    try:
        content = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        seen = f"saw {type(value).__name__}, which JSON cannot say ({error})"
        raise InvalidRequest.of(f"{argument}[{path!r}]", f"{seen}; expected what it can say") from error
    return pb.Condition(path=path, comparison=_COMPARISONS[operator], value=content)


def _is_mapping(wanted: Any) -> bool:  # noqa: ANN401
    return isinstance(wanted, Mapping)
