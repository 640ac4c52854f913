"""Filters over payloads of JSON: conditions on values at paths, evaluated alike wherever items are kept."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from attractor_server.memories.records import Item

Comparison: TypeAlias = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "exists", "contains"]

Json: TypeAlias = Any
"""A value as `json` reads it"""

_decode = json.JSONDecoder().decode

_INDEX = re.compile("0|[1-9][0-9]{0,8}")

MISSING: Json = object()
"""No value at that path"""


@dataclass(frozen=True)
class Condition:
    """A comparison of the value at a path with another one."""

    path: Sequence[str]
    comparison: Comparison
    value: Json

    def holds(self, payload: Json) -> bool:
        """Return whether it is true of a payload, MISSING for none."""
        return _COMPARISONS[self.comparison](find_value(payload, self.path), self.value)


@dataclass(frozen=True)
class Filter:
    """Conditions that all have to hold; without any it is true of everything."""

    conditions: Sequence[Condition] = ()

    def matches(self, item: Item) -> bool:
        """Return whether all conditions hold for an item's payload."""
        if not self.conditions:
            return True
        payload = _decode(item.payload.decode()) if item.json else MISSING
        return all(condition.holds(payload) for condition in self.conditions)


EVERYTHING = Filter()


def parse_path(text: str) -> Sequence[str]:
    r"""Split a path at its dots, of which `\.` is none.

    Raises:
        ValueError: a name is empty, or a backslash stands before something else.
    """
    names, name, marks = list[str](), "", iter(text)
    for mark in marks:
        if mark == ".":
            names.append(name)
            name = ""
        elif mark == "\\":
            if (escaped := next(marks, "")) not in (".", "\\"):
                raise ValueError(f"a backslash before {escaped!r}")
            name += escaped
        else:
            name += mark
    names.append(name)
    if not all(names):
        raise ValueError("an empty name")
    return tuple(names)


def find_value(payload: Json, path: Sequence[str]) -> Json:
    """Return the value at a path; MISSING if there is none."""
    for name in path:
        if isinstance(payload, dict):
            payload = payload.get(name, MISSING)
        elif isinstance(payload, list) and _INDEX.fullmatch(name) and int(name) < len(payload):
            payload = payload[int(name)]
        else:
            return MISSING
    return payload


def are_equal(one: Json, other: Json) -> bool:
    """Return whether two values are equal and of the same type of JSON; 1 equals 1.0, and true does not equal 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(are_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(are_equal(one[name], other[name]) for name in one)
    return bool(one == other)


def _order(compare: Callable[[Any, Any], bool]) -> Callable[[Json, Json], bool]:
    """Return a comparison of numbers with numbers and texts with texts, false of everything else."""

    def holds(seen: Json, value: Json) -> bool:
        if isinstance(seen, str) and isinstance(value, str):
            return compare(seen, value)
        return _is_number(seen) and _is_number(value) and compare(seen, value)

    return holds


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _contains(seen: Json, value: Json) -> bool:
    if isinstance(seen, str):
        return isinstance(value, str) and value in seen
    return isinstance(seen, list) and any(are_equal(one, value) for one in seen)


_COMPARISONS: Mapping[Comparison, Callable[[Json, Json], bool]] = {
    "eq": are_equal,
    "ne": lambda seen, value: not are_equal(seen, value),
    "gt": _order(lambda seen, value: seen > value),
    "gte": _order(lambda seen, value: seen >= value),
    "lt": _order(lambda seen, value: seen < value),
    "lte": _order(lambda seen, value: seen <= value),
    "in": lambda seen, value: any(are_equal(seen, one) for one in value),
    "exists": lambda seen, value: (seen is not MISSING) is value,
    "contains": _contains,
}
