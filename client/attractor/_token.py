"""Tokens: how a client proves who it is, and where it may say so."""

import inspect
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from attractor._arguments import check_text
from attractor._errors import InvalidRequest, Unauthenticated

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A token, or a function that returns one and is asked again when the server no longer takes the last one"""

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_KEY: Final = "authorization"

_LOCAL: Final = ("localhost", "unix", "unix-abstract", "vsock")


class TokenSource:
    """The token of an open client."""

    def __init__(self, token: Token | None) -> None:
        self._token = token
        self._metadata: Metadata | None = None
        self._reading = anyio.Lock()

    @property
    def renewable(self) -> bool:
        """Whether there may be another token when this one is refused."""
        return callable(self._token)

    async def read(self, refused: Metadata | None = None) -> Metadata:
        """Return the metadata of a call; where that was `refused`, ask for another token, if there may be one.

        Raises:
            Unauthenticated: there is no token now, since the function failed.
            InvalidRequest: what it returned is no token.
        """
        if self._token is None:
            return ()
        async with self._reading:  # many calls may be refused at once
            if self._metadata is None or (self._metadata is refused and self.renewable):
                self._metadata = ((_KEY, f"Bearer {check_token(await self._ask())}"),)
            return self._metadata

    async def renew(self) -> Metadata:
        """Return the metadata of a session that begins, with a token that was asked for just now.

        Raises: as `read`.
        """
        return await self.read(refused=self._metadata)

    async def _ask(self) -> object:
        if not callable(self._token):
            return self._token
        try:
            given = self._token()
            return await given if inspect.isawaitable(given) else given
        except Exception as error:
            raise Unauthenticated(f"token: the function that returns it failed: {type(error).__name__}") from error


def check_token(given: object) -> str:
    """Return the token, without white space around it.

    Raises:
        InvalidRequest: it is none. The message does not repeat it.
    """
    text = check_text("token", given).strip() if isinstance(given, str) else ""
    if not text or not (text.isascii() and text.isprintable()) or " " in text:
        seen = "text that is no token" if isinstance(given, str) else type(given).__name__
        raise InvalidRequest.of("token", f"saw {seen}; expected one word of printable ASCII")
    return text


def is_local(address: str) -> bool:
    """Return whether nothing that is sent to the address leaves this machine."""
    scheme, _, rest = address.partition(":")
    if scheme in ("ipv4", "ipv6", "dns"):
        address = rest.lstrip("/")
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if scheme in _LOCAL or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
