"""Namespaces of LangGraph and names of memories: each label is a segment, so that a prefix of one is one of the other.

Labels have any characters but '.', and names few: all other bytes of a label are '.' and two hexadecimal digits.
"""

import re
from collections.abc import Sequence
from typing import TypeAlias

from langgraph.store.base import InvalidNamespaceError, MatchCondition

Namespace: TypeAlias = tuple[str, ...]

_NAME_LIMIT = 256
_PLAIN = re.compile(r"[A-Za-z0-9_-]")


def memory_name(root: str, namespace: Namespace) -> str:
    """Return the name of the memory of a namespace below a root.

    Raises:
        InvalidNamespaceError: it is too long.
    """
    name = "/".join([root, *map(_escape, namespace)])
    if len(name) > _NAME_LIMIT:
        expected = f"expected at most {_NAME_LIMIT} characters"
        raise InvalidNamespaceError(f"saw {namespace}, whose memory would be {name!r}; {expected}")
    return name


def namespace_of(root: str, name: str) -> Namespace:
    """Return the namespace of a memory below a root."""
    return tuple(map(_unescape, name.removeprefix(f"{root}/").split("/")))


def matches(condition: MatchCondition, namespace: Namespace) -> bool:
    """Return whether a namespace begins or ends as a condition says, in which '*' stands for any label."""
    path: Sequence[str] = condition.path
    if len(path) > len(namespace):
        return False
    labels = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, labels, strict=True))


def _escape(label: str) -> str:
    return "".join(char if _PLAIN.match(char) else "".join(f".{byte:02x}" for byte in char.encode()) for char in label)


def _unescape(segment: str) -> str:
    return re.sub(rb"\.([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), segment.encode()).decode(
        "utf-8", "replace"
    )
