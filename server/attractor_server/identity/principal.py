"""Principals: somebody who has proven who they are."""

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from attractor_server.errors import SettingsError
from attractor_server.identity.grants import Grant, Grants, Role, parse_grants

ANONYMOUS: Final = "anonymous"

SCOPE_MARK: Final = "\x1f"
"""Begins a client id as it is kept for one principal"""

_SCOPE_DIGITS: Final = 24
"""Hexadecimal digits of a principal's digest in what is kept"""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who has proven who they are, by a token, a certificate or a fellow shard's word."""

    source: str
    """Kind of proof: token, certificate, jwt, anonymous, shard"""
    name: str
    grants: Grants
    expires_s: float | None = None
    """When the proof ends, in seconds since 1970; None for never"""

    def __str__(self) -> str:
        return self.name if self.source in (ANONYMOUS, FELLOW_SOURCE) else f"{self.source}:{self.name}"

    def scope(self, client_id: str) -> str:
        """Return the client id under which numbers are kept: no two principals share one.

        That of an anonymous caller is the client's own, as it was before there were identities.
        """
        if self.source == ANONYMOUS:
            return f"{SCOPE_MARK}:{client_id}" if client_id.startswith(SCOPE_MARK) else client_id
        digest = hashlib.sha256(f"{self.source}:{self.name}".encode()).hexdigest()[:_SCOPE_DIGITS]
        return f"{SCOPE_MARK}{digest}:{client_id}"


FELLOW_SOURCE: Final = "shard"

FELLOW: Final = Principal(FELLOW_SOURCE, FELLOW_SOURCE, Grants([Grant("*", Role.ADMIN)]))
"""A shard of this server that calls for itself"""


def pack_principal(principal: Principal) -> bytes:
    """Return a principal as one shard tells it to another."""
    return json.dumps(
        [principal.source, principal.name, list(principal.grants.texts), principal.expires_s], separators=(",", ":")
    ).encode()


def unpack_principal(packed: bytes) -> Principal:
    """Return the principal that a fellow shard told.

    Raises:
        SettingsError: the shard is of a version that tells something else.
    """
    try:
        source, name, grants, expires_s = json.loads(packed)
    except ValueError as error:
        raise SettingsError(f"principal: a fellow shard told one that this version cannot read: {error}") from None
    return Principal(str(source), str(name), parse_grants(grants, where="principal.grants"), expires_s)
