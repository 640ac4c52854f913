"""The identities that a shard knows, read again when their file changes."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from attractor_server.errors import SettingsError, Unauthenticated
from attractor_server.identity.identity_file import IdentityTable, read_identities
from attractor_server.identity.key_set import KeySet
from attractor_server.identity.principal import Principal
from attractor_server.identity.tokens import LENGTH_LIMIT, hash_token
from attractor_server.identity.web_tokens import is_web_token, read_origin, verify

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
"""Time after which a change of the file is noticed"""

VERIFIED_LIMIT: Final = 10_000
"""Tokens of issuers that are at hand without being verified again"""

_SCHEME: Final = "bearer"

_Stamp = tuple[int, int, int]


class Identities:
    """Tells who a caller is by what it proves. Lives on one event loop."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: it cannot be read, or cannot be meant.
        """
        self._path = path
        self._stamp = _read_stamp(path)
        self._table: IdentityTable = read_identities(path)
        self.on_read: Callable[[str], object] = lambda outcome: None
        """Called with how it went whenever the file was read again"""
        self._keys: dict[str, KeySet] = {}
        """By the place that they come from"""
        self._verified: dict[bytes, Principal] = {}
        """Tokens of issuers, by their digests"""
        self.change = asyncio.Event()
        """Set when somebody may have become somebody else, or nobody; then there is another one"""

    async def run(self) -> None:
        """Read the file again whenever it changes, until cancelled; what was right goes on where it is wrong now."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_keys)
            while True:
                await anyio.sleep(LOOK_EVERY_S)
                await self.look()

    async def _watch_keys(self) -> None:
        while True:
            for issuer in list(self._table.issuers.values()):
                await self._keys_of(issuer.keys).keep_fresh()
            await anyio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Read the file again if it has changed."""
        stamp = await anyio.to_thread.run_sync(_read_stamp, self._path)
        if stamp in (self._stamp, None):  # None: it is being replaced, or was taken away
            return
        try:
            table = await anyio.to_thread.run_sync(read_identities, self._path)
        except SettingsError as error:
            logger.error("identities stay as they were: %s", error.message)  # noqa: TRY400 - it says where
            self.on_read("REFUSED")
        else:
            self._replace(table)
            self.on_read("OK")
        self._stamp = stamp

    def _replace(self, table: IdentityTable) -> None:
        self._table = table
        places = {issuer.keys for issuer in table.issuers.values()}
        self._keys = {place: keys for place, keys in self._keys.items() if place in places}
        self._doubt()

    def _doubt(self) -> None:
        """Let everybody prove anew who they are."""
        self._verified.clear()
        self.change.set()
        self.change = asyncio.Event()

    def _keys_of(self, place: str) -> KeySet:
        return self._keys.setdefault(place, KeySet(place, self._doubt))

    async def authenticate(self, authorization: str, certificate: Sequence[str] = ()) -> Principal:
        """Return whom a caller has proven to be, by the text of its `authorization` or the names in its certificate.

        Raises:
            Unauthenticated: nobody that is known, or whose time is over.
        """
        principal = await self._identify(authorization, certificate)
        if principal.expires_s is not None and principal.expires_s <= time.time():
            raise Unauthenticated("authorization: saw a token whose time is over; expected one that is valid")
        return principal

    async def _identify(self, authorization: str, certificate: Sequence[str]) -> Principal:
        if authorization:
            scheme, _, token = authorization.strip().partition(" ")
            if scheme.lower() != _SCHEME or not token or len(token) > LENGTH_LIMIT:
                raise Unauthenticated("authorization: saw no bearer token; expected `Bearer` and a token")
            return await self._find_token(token.strip())
        for name in certificate:
            if (principal := self._table.certificates.get(name)) is not None:
                return principal
        if self._table.anonymous is not None:
            return self._table.anonymous
        seen = "a certificate of nobody that this server knows" if certificate else "none"
        raise Unauthenticated(f"authorization: saw {seen}; expected `Bearer` and a token of this server")

    async def _find_token(self, token: str) -> Principal:
        digest = hash_token(token)
        known = self._table.tokens.get(digest) or self._verified.get(digest)
        if known is not None:
            return known
        if self._table.issuers and is_web_token(token):
            return await self._verify(token, digest)
        raise Unauthenticated("authorization: saw a token that this server does not know; expected one of its own")

    async def _verify(self, token: str, digest: bytes) -> Principal:
        named, kid = read_origin(token)
        if (issuer := self._table.issuers.get(named)) is None:
            raise Unauthenticated("authorization: saw a token of an issuer that this server does not know")
        change = self.change
        principal = await verify(token, issuer, self._keys_of(issuer.keys), kid)
        if len(self._verified) >= VERIFIED_LIMIT:
            self._verified.clear()
        if self.change is change:  # else it was verified by what is no longer believed
            self._verified[digest] = principal
        return principal


def _read_stamp(path: Path) -> _Stamp | None:
    """Return what changes with the file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
