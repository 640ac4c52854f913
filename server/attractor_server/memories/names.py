"""Names of memories."""

from functools import lru_cache

from attractor_proto.names import NAME_LIMIT, is_valid_name
from attractor_server.errors import InvalidRequest

NAMES_LIMIT = 16_384
"""Names whose namespaces are cached: each is asked for several times with every request"""


@lru_cache(maxsize=NAMES_LIMIT)
def namespace_of(name: str) -> str:
    """Return the part of a memory's name before the first `/`; names without one share the namespace ""."""
    head, slash, _ = name.partition("/")
    return head if slash else ""


def check_name(name: str, *, field: str = "name") -> None:
    """Refuse a text that cannot be a memory's name.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not is_valid_name(name):
        seen = repr(name) if len(name) <= NAME_LIMIT else f"{name[:32]!r}… ({len(name)} characters)"
        raise InvalidRequest.of(
            field,
            f"saw {seen}; expected 1 to {NAME_LIMIT} characters: letters, digits, '.', '_', '-' "
            "in segments separated by single '/'",
        )


HIDDEN = "."
"""Begins the tags of snapshots that are taken to be read once; whoever took one may have died before forgetting it"""
