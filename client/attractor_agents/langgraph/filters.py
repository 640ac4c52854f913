"""Filters of LangGraph: as conditions for the server where these say the same, and in full."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from operator import ge, gt, le, lt
from typing import Any

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
OPERATORS = ("$eq", "$ne", *_ORDERS)


def check_filter(given: Mapping[str, Any] | None) -> None:
    """Refuse operators that there are not.

    Raises:
        ValueError: naming the key and what was seen.
    """
    for key, wanted in (given or {}).items():
        for name, inner in wanted.items() if isinstance(wanted, Mapping) else ():
            if not isinstance(name, str) or (name.startswith("$") and name not in OPERATORS):
                raise ValueError(f"filter[{key!r}]: saw {name!r}; expected one of {', '.join(OPERATORS)}, or a value")
            if isinstance(inner, Mapping):
                check_filter({name: inner})


def encode_filter(given: Mapping[str, Any] | None, at: str) -> dict[str, Any]:
    """Return conditions on payloads that hold for all values that a filter takes, and for few others."""
    return dict(_encode(given or {}, at))


def is_covered(given: Mapping[str, Any] | None) -> bool:
    """Return whether the conditions that `encode_filter` makes say all that a filter does."""
    return all(
        key
        and "." not in key
        and "\\" not in key
        and (_is_sure(wanted) or (isinstance(wanted, Mapping) and _is_covered_at(wanted)))
        for key, wanted in (given or {}).items()
    )


def _is_covered_at(wanted: Mapping[str, Any]) -> bool:
    if any(name.startswith("$") for name in wanted):
        return all(map(_is_sure, wanted.values()))
    return bool(wanted) and is_covered(wanted)


def takes(given: Mapping[str, Any] | None, value: Mapping[str, Any]) -> bool:
    """Return whether a value passes a filter; a key with dots is that of a member, or else a path."""
    return all(_matches(_find(value, key), wanted) for key, wanted in (given or {}).items())


def _encode(given: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    for key, wanted in given.items():
        path = f"{at}.{key}".replace("\\", "\\\\") if at else key
        if not key or "." in key or "\\" in key:
            continue
        if isinstance(wanted, Mapping):
            if not any(name.startswith("$") for name in wanted):
                yield from _encode(wanted, path)
            elif sure := {name: inner for name, inner in wanted.items() if _is_sure(inner)}:
                yield path, sure
        elif _is_sure(wanted):
            yield path, wanted


def _is_sure(wanted: object) -> bool:
    """Return whether the server compares it as LangGraph does: None stands for what is missing, and JSON has no inf."""
    return isinstance(wanted, str) or (
        isinstance(wanted, int | float) and type(wanted) is not bool and isfinite(wanted)
    )


def _find(value: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - what JSON says
    if key in value or "." not in key:
        return value.get(key)
    found: Any = value
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _matches(seen: Any, wanted: Any) -> bool:  # noqa: ANN401
    if isinstance(wanted, Mapping):
        if any(name.startswith("$") for name in wanted):
            return all(_holds(name, seen, inner) for name, inner in wanted.items())
        return isinstance(seen, Mapping) and all(_matches(seen.get(name), inner) for name, inner in wanted.items())
    if isinstance(wanted, list | tuple):
        alike = isinstance(seen, Sequence) and not isinstance(seen, str) and len(seen) == len(wanted)
        return alike and all(map(_matches, seen, wanted))
    return bool(seen == wanted)


def _holds(operator: str, seen: Any, wanted: Any) -> bool:  # noqa: ANN401
    if operator in ("$eq", "$ne"):
        return bool(seen == wanted) == (operator == "$eq")
    try:
        return _ORDERS[operator](float(seen), float(wanted))
    except (TypeError, ValueError):
        return False
