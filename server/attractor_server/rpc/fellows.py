"""Fellow shards: how one proves that it is a shard of this server, and whom it calls for."""

import secrets
from collections.abc import Mapping, Sequence
from hmac import compare_digest
from typing import Final

from attractor_server.errors import ServerError, Unavailable
from attractor_server.identity.principal import FELLOW, Principal, pack_principal, unpack_principal
from attractor_server.rpc.context import FORWARDED, Context, get_access, get_address, read_bytes, read_metadata
from attractor_server.scheduling.jobs import Origin
from attractor_server.shard.shard import Shard

FELLOW_KEY: Final = "attractor-fellow"
"""Metadata between shards: the secret that only shards of one server know"""

ORIGIN_KEY: Final = "attractor-origin"
"""Metadata between shards: address and session of the client that the call is made for"""

PRINCIPAL_KEY: Final = "attractor-principal-bin"
"""Metadata between shards: whom that client has proven to be, where the server knows identities"""

_SESSION_BITS: Final = 63


class Fellows:
    """The shards of this server, as one of them knows them. A caller that proves nothing is a client."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.callers: Mapping[str, str] = {}
        """Addresses of clients whose connections were passed on, by those that gRPC sees"""

    async def make_metadata(
        self, origin: Origin | None, principal: Principal | None
    ) -> Sequence[tuple[str, str | bytes]]:
        """Return the metadata of a call to another shard: for that client, or for this shard itself where it is None.

        Without a proof where the secret cannot be read now: the owner then serves the call as a client's. `principal`
        is whom the client has proven to be, if it has.

        Raises:
            Unavailable: it cannot be told to the owner now.
        """
        if not (secret := await self._read_secret()):
            if principal is not None:
                raise _unreadable_error()
            return FORWARDED
        named = () if origin is None else ((ORIGIN_KEY, f"{origin[0]} {origin[1]}"),)
        proven = () if principal is None else ((PRINCIPAL_KEY, pack_principal(principal)),)
        return (*FORWARDED, (FELLOW_KEY, secret), *named, *proven)

    async def read_principal(self, context: Context) -> Principal | None:
        """Return whom a fellow shard names as the caller, or the shard itself; None where no fellow names anybody.

        Raises:
            Unavailable: whether it is a fellow cannot be found out now.
        """
        if not read_metadata(context, FELLOW_KEY):
            return None
        if not await self._read_secret():
            raise _unreadable_error()
        if not await self.is_proven(context):
            return None
        if packed := read_bytes(context, PRINCIPAL_KEY):
            return unpack_principal(packed)
        return None if read_metadata(context, ORIGIN_KEY) else FELLOW

    async def read_origin(self, context: Context, *, session: int = 0) -> Origin:
        """Return whose call this is: the caller's own, by that number, unless a fellow shard names another client."""
        named = read_metadata(context, ORIGIN_KEY)
        if named and await self.is_proven(context):
            address, _, number = named.rpartition(" ")
            return address, int(number)
        return get_address(context, self.callers), session

    async def read_share(self, context: Context) -> Origin:
        """Return whose part of the server this call takes."""
        return get_access(context).share(await self.read_origin(context))

    async def is_own_call(self, context: Context) -> bool:
        """Return whether a fellow shard calls for itself, not for a client."""
        return not read_metadata(context, ORIGIN_KEY) and await self.is_proven(context)

    async def is_proven(self, context: Context) -> bool:
        """Return whether the caller is a shard of this server."""
        if not (claimed := read_metadata(context, FELLOW_KEY)):
            return False
        secret = await self._read_secret()
        return bool(secret) and compare_digest(claimed.encode(), secret.encode())

    async def _read_secret(self) -> str:
        try:
            return await self._shard.read_secret()
        except ServerError:
            return ""


def _unreadable_error() -> Unavailable:
    """Return the error of a call whose caller cannot be proven to another shard now."""
    return Unavailable("the store cannot be read, by which shards prove who they are; try again in a moment")


def draw_session() -> int:
    """Return a number for a session that no other has, on any shard."""
    return secrets.randbits(_SESSION_BITS) or 1
