"""Grants: the role that somebody has in memories whose names match a pattern."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from attractor_proto.names import is_valid_name
from attractor_server.errors import SettingsError, quote

GRANTS_LIMIT_BYTES: Final = 4096
"""Of all grants of one identity as text: they travel in the metadata of calls between shards"""

_ALL: Final = "*"
_FLAT: Final = "/*"
_EXPECTED = (
    "expected PATTERN:ROLE, where PATTERN is a memory's name, NAMESPACE/* for all below it, /* for names without a "
    "namespace, or * for all, and ROLE is read, write or admin"
)


class Role(IntEnum):
    """A role in a memory; each includes those before it."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


class Grant(NamedTuple):
    """A role in all memories whose names match a pattern."""

    pattern: str
    role: Role

    def __str__(self) -> str:
        return f"{self.pattern}:{self.role.name.lower()}"


class Grants:
    """Grants of one identity. Of those that match a name the highest role counts."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants = tuple(sorted(set(grants)))
        self._below: dict[str, Role] = {}
        self._named: dict[str, Role] = {}
        self._all = self._flat = Role.NONE
        for pattern, role in self._grants:
            if pattern == _ALL:
                self._all = max(self._all, role)
            elif pattern == _FLAT:
                self._flat = max(self._flat, role)
            elif pattern.endswith("/*"):
                self._below[pattern[:-1]] = max(self._below.get(pattern[:-1], Role.NONE), role)
            else:
                self._named[pattern] = max(self._named.get(pattern, Role.NONE), role)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grants) and self._grants == other._grants

    def __hash__(self) -> int:
        return hash(self._grants)

    def __repr__(self) -> str:
        return f"Grants({', '.join(self.texts)})"

    @property
    def all(self) -> Sequence[Grant]:
        """All of them."""
        return self._grants

    @property
    def texts(self) -> Sequence[str]:
        """Grants as `parse_grants` reads them."""
        return [str(grant) for grant in self._grants]

    @property
    def everywhere(self) -> Role:
        """Role in all memories."""
        return self._all

    @property
    def flat(self) -> Role:
        """Role in memories without a namespace."""
        return max(self._all, self._flat)

    def prefixes(self, role: Role) -> Sequence[str]:
        """Return the prefixes of names, each with its last slash, below which the role is granted."""
        return [prefix for prefix, granted in self._below.items() if granted >= role]

    def names(self, role: Role) -> Sequence[str]:
        """Return the single names in which the role is granted."""
        return [name for name, granted in self._named.items() if granted >= role]

    def role_in(self, name: str) -> Role:
        """Return the role in the memory of that name, whether there is one or not."""
        role = max(self._all, self._named.get(name, Role.NONE))
        end = name.find("/")
        if end < 0:
            return max(role, self._flat)
        while self._below and end >= 0:
            role = max(role, self._below.get(name[: end + 1], Role.NONE))
            end = name.find("/", end + 1)
        return role


def parse_grant(text: object, *, where: str) -> Grant:
    """Return the grant that a text says.

    Raises:
        SettingsError: naming the place, the value seen and the value expected.
    """
    pattern, colon, word = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    role = Role.__members__.get(word.upper(), Role.NONE) if word == word.lower() else Role.NONE
    valid = pattern in (_ALL, _FLAT) or is_valid_name(pattern.removesuffix("/*"))
    if not (colon and role and valid):
        raise SettingsError(f"{where}: saw {quote(text)}; {_EXPECTED}")
    return Grant(pattern, role)


def parse_grants(texts: object, *, where: str) -> Grants:
    """Return the grants that a list of texts says.

    Raises:
        SettingsError: naming the place, the value seen and the value expected.
    """
    if not isinstance(texts, list):
        raise SettingsError(f"{where}: saw {quote(texts)}; expected a list of grants")
    grants = Grants(parse_grant(text, where=f"{where}[{i}]") for i, text in enumerate(texts))
    check_size(grants, where=where)
    return grants


def check_size(grants: Grants, *, where: str) -> None:
    """Refuse more grants than calls between shards can carry.

    Raises:
        SettingsError: naming the place, the size seen and the size expected.
    """
    if (size := sum(len(text) + 3 for text in grants.texts)) > GRANTS_LIMIT_BYTES:
        raise SettingsError(
            f"{where}: saw grants of {size} characters; expected at most {GRANTS_LIMIT_BYTES}: grant whole namespaces"
        )
