"""The file of identities: tokens by their digests, names of certificates, issuers, and those who prove nothing.

[[token]]
name = "ada"
sha256 = "…"                      # of the token: `attractor token new` prints both
grants = ["users/ada/*:write"]
expires = 2027-01-01T00:00:00Z    # or never

[[certificate]]
name = "agents.example.org"       # an alternative name of the certificate, or its common name
grants = ["agents/*:write"]

[anonymous]                       # whoever proves nothing; without this table they are refused
grants = ["*:admin"]
"""

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from attractor_server.errors import SettingsError, quote
from attractor_server.identity.grants import Grants, parse_grants
from attractor_server.identity.issuers import Issuer, read_issuer
from attractor_server.identity.principal import ANONYMOUS, Principal
from attractor_server.identity.tables import check_keys, list_entries, read_text

NAME_LIMIT: Final = 256

_FILE_LIMIT_BYTES: Final = 16 << 20

_DIGEST_DIGITS: Final = 64


@dataclass(frozen=True)
class IdentityTable:
    """Principals by their proofs."""

    tokens: Mapping[bytes, Principal] = field(default_factory=dict)
    """By the digest of the token"""
    certificates: Mapping[str, Principal] = field(default_factory=dict)
    """By the name in the certificate"""
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    """By the claim `iss` of their tokens"""
    anonymous: Principal | None = None


def read_identities(path: Path) -> IdentityTable:
    """Return what the file says.

    Raises:
        SettingsError: it cannot be read, others may change it, or it says something that cannot be meant.
    """
    return _read_table(_load(path), f"identities: {path}", path.resolve().parent)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            _check_mode(os.fstat(file.fileno()), path)
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"identities: saw {str(path)!r}, which cannot be read: {error.strerror}") from None
    if len(content) > _FILE_LIMIT_BYTES:
        raise SettingsError(f"identities: saw {str(path)!r} with more than {_FILE_LIMIT_BYTES >> 20} MiB")
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:
        raise SettingsError(f"identities: {path} cannot be read as TOML: {error}") from None


def _check_mode(status: os.stat_result, path: Path) -> None:
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(
            f"identities: saw {str(path)!r} with mode {stat.S_IMODE(status.st_mode):04o}, which lets others change it; "
            "expected one that its owner alone may write (chmod go-w)"
        )


def _read_table(content: Mapping[str, Any], where: str, folder: Path) -> IdentityTable:
    check_keys(content, where, optional=("token", "certificate", "jwt", "anonymous"))
    tokens: dict[bytes, Principal] = {}
    for entry, place in list_entries(content, "token", where):
        check_keys(entry, place, required=("name", "sha256", "grants"), optional=("expires",))
        digest = _read_digest(entry["sha256"], f"{place}.sha256")
        if digest in tokens:
            raise SettingsError(f"{place}.sha256: saw the digest of another entry; expected each token once")
        tokens[digest] = _read_principal("token", entry, place)
    certificates: dict[str, Principal] = {}
    for entry, place in list_entries(content, "certificate", where):
        check_keys(entry, place, required=("name", "grants"))
        principal = _read_principal("certificate", entry, place)
        if principal.name in certificates:
            raise SettingsError(f"{place}.name: saw {quote(principal.name)} twice; expected each name once")
        certificates[principal.name] = principal
    issuers: dict[str, Issuer] = {}
    for entry, place in list_entries(content, "jwt", where):
        issuer = read_issuer(entry, place, folder)
        if issuer.name in issuers:
            raise SettingsError(f"{place}.issuer: saw {quote(issuer.name)} twice; expected each issuer once")
        issuers[issuer.name] = issuer
    return IdentityTable(tokens, certificates, issuers, _read_anonymous(content.get(ANONYMOUS), where))


def _read_anonymous(entry: object, where: str) -> Principal | None:
    if entry is None:
        return None
    place = f"{where}: {ANONYMOUS}"
    entry = check_keys(entry, place, required=("grants",))
    return Principal(ANONYMOUS, ANONYMOUS, parse_grants(entry["grants"], where=f"{place}.grants"))


def _read_principal(source: str, entry: Mapping[str, Any], where: str) -> Principal:
    name = read_text(entry["name"], f"{where}.name", limit=NAME_LIMIT)
    grants = parse_grants(entry["grants"], where=f"{where}.grants")
    return Principal(source, name, grants, _read_time(entry.get("expires"), f"{where}.expires"))


def _read_digest(text: object, where: str) -> bytes:
    try:
        if isinstance(text, str) and len(text) == _DIGEST_DIGITS:
            return bytes.fromhex(text)
    except ValueError:
        pass
    kind = f"{len(text)} characters" if isinstance(text, str) else type(text).__name__  # perhaps the token itself
    raise SettingsError(f"{where}: saw {kind}; expected the {_DIGEST_DIGITS} hexadecimal digits of a SHA-256")


def _read_time(value: object, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise SettingsError(f"{where}: saw {quote(value)}; expected a time, as 2027-01-01T00:00:00Z")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def format_token(name: str, digest: bytes, grants: Grants, expires: datetime | None) -> str:
    """Return the entry of a token as the file has it.

    Raises:
        SettingsError: no principal can have that name.
    """
    texts = ", ".join(f'"{text}"' for text in grants.texts)
    lines = ["[[token]]", f"name = {_quote_text(name)}", f'sha256 = "{digest.hex()}"', f"grants = [{texts}]"]
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(UTC).isoformat(timespec='seconds')}")
    entry = "\n".join(lines) + "\n"
    _read_table(tomllib.loads(entry), "token", Path())
    return entry


def _quote_text(text: str) -> str:
    """Return a text as TOML has it, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)
