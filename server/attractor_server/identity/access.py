"""Access of one caller: the grants of its principal, and their end."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from attractor_server.errors import NotAllowed, ServerError, Unauthenticated, Unavailable, quote
from attractor_server.identity.audit import CallAudit
from attractor_server.identity.grants import Grants, Role
from attractor_server.identity.identities import Identities
from attractor_server.identity.principal import ANONYMOUS, Principal

DRAIN_BEFORE_S: Final = 10.0
"""Time before the end of a proof in which a session is asked to begin anew with another one"""

_KNOWN_LIMIT: Final = 4096
"""Names whose role is at hand"""

Recheck: TypeAlias = Callable[[], Awaitable[Principal]]


class Access:
    """Access of the caller of one call. Without identities everybody may do everything."""

    def __init__(
        self, principal: Principal | None, identities: Identities | None = None, recheck: Recheck | None = None
    ) -> None:
        """`recheck` proves the principal anew, after `identities` have changed."""
        self.principal = principal
        self.audit: CallAudit | None = None
        self._identities = identities
        self._recheck = recheck
        self._roles: dict[str, Role] = {}

    @property
    def unrestricted(self) -> bool:
        """Whether the caller may do everything."""
        return self.principal is None

    @property
    def grants(self) -> Grants:
        """Grants of a caller that is not unrestricted."""
        assert self.principal is not None
        return self.principal.grants

    @property
    def ends(self) -> bool:
        """Whether it may end before the call does."""
        return self._recheck is not None

    def may(self, name: str, role: Role) -> bool:
        """Return whether the caller has that role in the memory of that name, whether there is one or not."""
        if self.principal is None:
            return True
        if (known := self._roles.get(name)) is None:
            if len(self._roles) >= _KNOWN_LIMIT:
                self._roles.clear()
            known = self._roles[name] = self.principal.grants.role_in(name)
        return known >= role

    def check(self, name: str, role: Role, *, field: str) -> None:
        """Refuse a caller without that role in the memory of that name.

        Raises:
            NotAllowed: the same, whether there is such a memory or not.
        """
        if self.audit is not None:
            self.audit.note(name)
        if not self.may(name, role):
            raise self.refuse(name, role, field=field)

    def refuse(self, name: str, role: Role, *, field: str) -> NotAllowed:
        """Return the error of a caller without that role in a memory of that name, if there is one."""
        if self.audit is not None:
            self.audit.refuse(name, NotAllowed.reason)
        return NotAllowed(f"{field}: saw {quote(name)}; expected a memory that this identity may {role.name.lower()}")

    def check_everywhere(self, role: Role, what: str) -> None:
        """Refuse a caller without that role in all memories.

        Raises:
            NotAllowed: so it is.
        """
        if self.principal is not None and self.principal.grants.everywhere < role:
            if self.audit is not None:
                self.audit.refuse("", NotAllowed.reason)
            raise NotAllowed(f"{what} needs the grant *:{role.name.lower()}, which this identity does not have")

    def scope(self, client_id: str) -> str:
        """Return the client id under which the caller's numbers are kept."""
        return client_id if self.principal is None else self.principal.scope(client_id)

    def share(self, origin: tuple[str, int]) -> tuple[str, int]:
        """Return whose part of the server a call takes: the identity's, wherever it calls from, or the address's."""
        if self.principal is None or self.principal.source == ANONYMOUS:
            return origin
        return str(self.principal), origin[1]

    async def wait_for_drain(self) -> None:
        """Wait until the caller should begin anew with another proof; for ever where that is near or never comes."""
        assert self.principal is not None
        if (end_s := self.principal.expires_s) is not None and (left_s := end_s - time.time()) > DRAIN_BEFORE_S:
            await anyio.sleep(left_s - DRAIN_BEFORE_S)
            return
        await anyio.sleep_forever()

    async def wait_for_end(self) -> ServerError:
        """Wait until the caller is nobody any more, or has other grants, and return the error that says so."""
        assert self._identities is not None
        assert self._recheck is not None
        while True:
            change = self._identities.change
            try:
                if await self._recheck() != self.principal:
                    return Unavailable("this identity has other grants than when the session began: begin another one")
            except Unauthenticated as error:
                return error
            with anyio.move_on_after(self._left_s()):
                await change.wait()

    def _left_s(self) -> float | None:
        assert self.principal is not None
        return None if self.principal.expires_s is None else max(0.0, self.principal.expires_s - time.time())


OPEN: Final = Access(None)
"""Of everybody, where no identities are named and nothing is logged"""
