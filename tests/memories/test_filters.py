"""Filters compare typed values at paths."""

import json

import pytest

from attractor_server.memories.filters import Comparison, Condition, Filter, parse_path
from attractor_server.memories.records import Item

PAYLOAD = {
    "n": 1,
    "half": 0.5,
    "text": "abc",
    "yes": True,
    "none": None,
    "large": 2**63 + 1,
    "tags": ["x", 1, {"deep": [10, 20]}],
    "user": {"age": 30, "a.b": 1, "back\\slash": 2},
}


def holds(path: str, comparison: Comparison, value: object) -> bool:
    item = Item(payload=json.dumps(PAYLOAD).encode(), json=True)
    return Filter([Condition(parse_path(path), comparison, value)]).matches(item)


@pytest.mark.parametrize(
    ("path", "comparison", "value"),
    [
        ("n", "eq", 1.0),
        ("large", "eq", 2**63 + 1),
        ("user.age", "gte", 30),
        (r"user.a\.b", "eq", 1),
        (r"user.back\\slash", "eq", 2),
        ("tags.2.deep.1", "eq", 20),
        ("tags", "contains", 1),
        ("text", "contains", "bc"),
        ("text", "gt", "abb"),
        ("none", "eq", None),
        ("none", "exists", True),
        ("nothing", "exists", False),
        ("nothing", "ne", 1),
        ("n", "in", [0, 1]),
        ("user", "eq", {"age": 30, "a.b": 1, "back\\slash": 2}),
        ("half", "lt", 1),
    ],
)
def test_a_condition_holds(path: str, comparison: Comparison, value: object) -> None:
    assert holds(path, comparison, value)


@pytest.mark.parametrize(
    ("path", "comparison", "value"),
    [
        ("n", "eq", True),
        ("yes", "eq", 1),
        ("yes", "gt", 0),
        ("large", "eq", 2**63),
        ("n", "eq", "1"),
        ("text", "gt", 0),
        ("none", "lt", 1),
        ("nothing", "eq", None),
        ("nothing", "exists", True),
        ("tags", "contains", True),
        ("tags.9", "exists", True),
        ("tags.00", "exists", True),
        ("tags.-1", "exists", True),
        ("n.n", "exists", True),
        ("n", "in", ["1", True]),
    ],
)
def test_a_condition_does_not_hold_across_types_or_where_there_is_no_value(
    path: str, comparison: Comparison, value: object
) -> None:
    assert not holds(path, comparison, value)


def test_bytes_and_items_without_a_payload_have_no_values() -> None:
    is_one = Filter([Condition(["n"], "eq", 1)])
    assert not is_one.matches(Item(payload=b'{"n":1}'))
    assert not is_one.matches(Item(id="x"))
    assert Filter().matches(Item())


@pytest.mark.parametrize("path", ["", "a.", ".a", "a..b", "\\", "a\\b"])
def test_a_path_without_a_meaning_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"an empty name|a backslash"):
        parse_path(path)
