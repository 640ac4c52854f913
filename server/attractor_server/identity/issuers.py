"""Issuers of JSON Web Tokens that a server believes, and the grants that their tokens bring."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from attractor_server.errors import SettingsError, quote
from attractor_server.identity.grants import Grant, Grants, check_size, parse_grant, parse_grants
from attractor_server.identity.tables import check_keys, read_text

LEEWAY_S: Final = 30.0
"""Difference of clocks that is passed over, and time in which a session with an expired token may begin anew"""

_TEXT_LIMIT: Final = 1024

_SUBJECT: Final = "{sub}"

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
"""A subject that can be a part of names"""


@dataclass(frozen=True)
class Issuer:
    """An issuer of tokens, as the file of identities describes it."""

    name: str
    """Claim `iss` of its tokens"""
    audiences: tuple[str, ...]
    """Of which a token is for one"""
    keys: str
    """Address or path of its public keys"""
    grants: tuple[str, ...] = ()
    """Of everybody; in them `{sub}` is the subject"""
    claim: str = ""
    """Claim with more grants; empty for none"""
    groups_claim: str = ""
    """Claim with names of groups"""
    groups: tuple[tuple[str, Grants], ...] = ()
    """Grants of each group"""

    def list_grants(self, claims: Mapping[str, Any]) -> Grants:
        """Return the grants that a token with these claims brings.

        Raises:
            SettingsError: the claim with grants cannot be meant.
        """
        found = [*self._own(str(claims["sub"])), *self._named(claims)]
        groups = claims.get(self.groups_claim) if self.groups_claim else None
        member_of = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        for group, grants in self.groups:
            if group in member_of:
                found.extend(grants.all)
        granted = Grants(found)
        check_size(granted, where="grants")
        return granted

    def _own(self, subject: str) -> Sequence[Grant]:
        """Return the grants of everybody; those with the subject only where that can be one part of a name."""
        fits = _SEGMENT.fullmatch(subject) is not None
        texts = [text.replace(_SUBJECT, subject) for text in self.grants if fits or _SUBJECT not in text]
        return [parse_grant(text, where="grants") for text in texts]

    def _named(self, claims: Mapping[str, Any]) -> Sequence[Grant]:
        given = claims.get(self.claim) if self.claim else None
        if given is None:
            return ()
        if isinstance(given, dict):
            given = [f"{pattern}:{role}" for pattern, role in given.items()]
        return parse_grants(given, where=self.claim).all


def read_issuer(entry: Mapping[str, Any], where: str, folder: Path) -> Issuer:
    """Return the issuer of a table; paths are from that folder.

    Raises:
        SettingsError: naming the place, the value seen and the value expected.
    """
    check_keys(
        entry,
        where,
        required=("issuer", "audience", "keys"),
        optional=("grants", "claim", "groups_claim", "groups"),
    )
    audiences = entry["audience"] if isinstance(entry["audience"], list) else [entry["audience"]]
    if not audiences:
        raise SettingsError(f"{where}.audience: saw none; expected at least one")
    groups = check_keys(entry.get("groups", {}), f"{where}.groups", optional=tuple(entry.get("groups", {})))
    if groups and "groups_claim" not in entry:
        raise SettingsError(f"{where}.groups_claim is missing; expected the claim that names groups")
    return Issuer(
        name=read_text(entry["issuer"], f"{where}.issuer", limit=_TEXT_LIMIT),
        audiences=tuple(read_text(one, f"{where}.audience", limit=_TEXT_LIMIT) for one in audiences),
        keys=_read_place(read_text(entry["keys"], f"{where}.keys", limit=_TEXT_LIMIT), f"{where}.keys", folder),
        grants=_read_templates(entry.get("grants", []), f"{where}.grants"),
        claim=_read_claim(entry, "claim", where),
        groups_claim=_read_claim(entry, "groups_claim", where),
        groups=tuple((group, parse_grants(texts, where=f"{where}.groups.{group}")) for group, texts in groups.items()),
    )


def is_address(keys: str) -> bool:
    """Return whether keys are fetched, not read from a file."""
    return "://" in keys


def _read_claim(entry: Mapping[str, Any], key: str, where: str) -> str:
    return read_text(entry[key], f"{where}.{key}", limit=_TEXT_LIMIT) if key in entry else ""


def _read_templates(texts: object, where: str) -> tuple[str, ...]:
    if not isinstance(texts, list):
        raise SettingsError(f"{where}: saw {quote(texts)}; expected a list of grants")
    for i, text in enumerate(texts):
        parse_grant(text.replace(_SUBJECT, "x") if isinstance(text, str) else text, where=f"{where}[{i}]")
    return tuple(texts)


def _read_place(keys: str, where: str, folder: Path) -> str:
    if not is_address(keys):
        return str(folder / keys)
    address = urlsplit(keys)
    if address.scheme == "https" or (address.scheme == "http" and _is_here(address.hostname or "")):
        return keys
    raise SettingsError(
        f"{where}: saw {quote(keys)}, whose keys others could change on their way; expected https:// or a path"
    )


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
