"""Tables of the file of identities, checked key by key."""

from collections.abc import Mapping, Sequence
from typing import Any

from attractor_server.errors import SettingsError, quote


def list_entries(content: Mapping[str, Any], kind: str, where: str) -> Sequence[tuple[Mapping[str, Any], str]]:
    """Return the tables of that kind, each with its place for messages.

    Raises:
        SettingsError: they are something else.
    """
    entries = content.get(kind, [])
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise SettingsError(f"{where}: {kind}: saw {type(entries).__name__}; expected tables, each begun by [[{kind}]]")
    return [(entry, f"{where}: {kind} {number}") for number, entry in enumerate(entries, 1)]


def check_keys(
    entry: object, where: str, *, required: Sequence[str] = (), optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return the table, which has all that is required and nothing that is neither.

    Raises:
        SettingsError: naming the place and the key.
    """
    if not isinstance(entry, dict):
        raise SettingsError(f"{where}: saw {type(entry).__name__}; expected a table")
    if unknown := entry.keys() - {*required, *optional}:
        raise SettingsError(f"{where}: saw {sorted(unknown)}; expected {', '.join([*required, *optional])}")
    if missing := [key for key in required if key not in entry]:
        raise SettingsError(f"{where}: {missing[0]} is missing; expected {', '.join(required)}")
    return entry


def read_text(value: object, where: str, *, limit: int) -> str:
    """Return a text of a table.

    Raises:
        SettingsError: naming the place, the value seen and the value expected.
    """
    if not (isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()):
        raise SettingsError(f"{where}: saw {quote(value)}; expected 1 to {limit} printable characters")
    return value
