"""The file of quotas: bounds of what a namespace may keep and ask for.

[[quota]]
namespace = "team-*"         # the part of names before the first "/", or a pattern; "" is that of names without one
memories = 1_000
items = 1_000_000            # patterns, and items without one; those of snapshots count as well
bytes = 10_000_000_000       # of patterns, ids, payloads, and pages in the database
patterns_per_s = 500         # stored, erased, queried or recognized; each shard has an equal part
requests_per_s = 100         # likewise
sessions = 20                # clients with a session at a shard
handles = 10_000             # memories that these have open at a shard
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from attractor_server.errors import SettingsError, quote
from attractor_server.identity.tables import check_keys, list_entries

_FILE_LIMIT_BYTES: Final = 1 << 20

_PATTERN_LIMIT: Final = 256

_COUNT_LIMIT: Final = 1 << 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """Bounds of one namespace; None for none."""

    memories: int | None = None
    items: int | None = None
    bytes: int | None = None
    patterns_per_s: float | None = None
    requests_per_s: float | None = None
    sessions: int | None = None
    handles: int | None = None

    @property
    def bounds_kept(self) -> bool:
        """Whether it bounds what is kept."""
        return (self.memories, self.items, self.bytes) != (None, None, None)

    @property
    def bounds_rates(self) -> bool:
        """Whether it bounds what is asked for in a second."""
        return (self.patterns_per_s, self.requests_per_s) != (None, None)


UNBOUNDED: Final = Quota()

_RATES: Final = ("patterns_per_s", "requests_per_s")

_NAMES: Final = tuple(field.name for field in fields(Quota))


@dataclass(frozen=True)
class QuotaTable:
    """Quotas by patterns of namespaces, of which the first that fits counts."""

    entries: Sequence[tuple[str, Quota]] = ()

    def find(self, namespace: str) -> Quota:
        """Return the bounds of that namespace."""
        return next((quota for pattern, quota in self.entries if fnmatchcase(namespace, pattern)), UNBOUNDED)


def read_quotas(path: Path) -> QuotaTable:
    """Return what the file says.

    Raises:
        SettingsError: it cannot be read, or says something that cannot be meant.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"quotas: saw {str(path)!r}, which cannot be read: {error.strerror}") from None
    if len(content) > _FILE_LIMIT_BYTES:
        raise SettingsError(f"quotas: saw {str(path)!r} with more than {_FILE_LIMIT_BYTES >> 20} MiB")
    try:
        tables = tomllib.loads(content.decode())
    except ValueError as error:
        raise SettingsError(f"quotas: {path} cannot be read as TOML: {error}") from None
    return _read_table(tables, f"quotas: {path}")


def _read_table(content: Mapping[str, Any], where: str) -> QuotaTable:
    check_keys(content, where, optional=("quota",))
    return QuotaTable([_read_entry(entry, place) for entry, place in list_entries(content, "quota", where)])


def _read_entry(entry: Mapping[str, Any], where: str) -> tuple[str, Quota]:
    check_keys(entry, where, required=("namespace",), optional=_NAMES)
    pattern = entry["namespace"]
    if not (isinstance(pattern, str) and len(pattern) <= _PATTERN_LIMIT and "/" not in pattern):
        raise SettingsError(
            f"{where}: namespace: saw {quote(pattern)}; expected the part of names before the first '/', or a pattern "
            "with '*' for it"
        )
    return pattern, Quota(
        **{name: _read_bound(entry[name], f"{where}: {name}", name) for name in _NAMES if name in entry}
    )


def _read_bound(value: object, where: str, name: str) -> Any:  # noqa: ANN401 - a number of the kind that the name needs
    rate = name in _RATES
    if type(value) is int or (rate and type(value) is float):
        number = float(value) if rate else value
        if number >= 0 and (number or not rate) and number <= _COUNT_LIMIT:
            return number
    raise SettingsError(f"{where}: saw {quote(value)}; expected {'a number above 0' if rate else 'a whole number'}")
