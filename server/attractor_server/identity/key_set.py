"""Public keys of an issuer, fetched again now and then, and where a token names one that is not known."""

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from attractor_server.errors import quote
from attractor_server.identity.issuers import is_address

if TYPE_CHECKING:
    from jwt import PyJWK

logger = logging.getLogger(__name__)

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})

FETCH_EVERY_S: Final = 3600.0

LOOK_EVERY_S: Final = 1.0
"""For a file: to look whether it has changed"""

COOLDOWN_S: Final = 10.0
"""Time until keys are fetched again for a token that names an unknown one"""

_TIMEOUT_S: Final = 5.0


class KeySet:
    """Public keys that may sign. Lives on one event loop."""

    def __init__(self, place: str, on_change: Callable[[], object]) -> None:
        """`place` is an address or a path; `on_change` is called when other keys are known than before."""
        self._on_change = on_change
        self._place = place
        self._keys: tuple[PyJWK, ...] = ()
        self._digest = self._fault = ""
        self._tried_s = -math.inf
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None) -> "PyJWK | None":
        """Return the key of that name, or the only one for a token that names none; fetch keys if it is not known."""
        if (key := self._choose(kid)) is None and time.monotonic() >= self._tried_s + COOLDOWN_S:
            await self.refresh(COOLDOWN_S)
            key = self._choose(kid)
        return key

    async def keep_fresh(self) -> None:
        """Fetch keys whose time has come."""
        await self.refresh(FETCH_EVERY_S if is_address(self._place) else LOOK_EVERY_S)

    async def refresh(self, age_s: float) -> None:
        """Fetch keys, unless that was tried less than so long ago; known ones go on where they cannot be fetched."""
        async with self._fetching:
            if time.monotonic() < self._tried_s + age_s:
                return
            try:
                keys, digest = await anyio.to_thread.run_sync(_load, self._place, self._digest)
            except Exception as error:
                self._warn(f"{type(error).__name__}: {quote(str(error))}")
            else:
                self._fault = ""
                if digest != self._digest:
                    self._keys, self._digest = keys, digest
                    self._on_change()
            self._tried_s = time.monotonic()

    def _warn(self, fault: str) -> None:
        """Say once what is wrong, though keys are looked at again and again."""
        if fault != self._fault:
            self._fault = fault
            logger.warning("keys at %s cannot be read: %s", self._place, fault)

    def _choose(self, kid: str | None) -> "PyJWK | None":
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.key_id == kid), None)


def _load(place: str, known: str) -> "tuple[tuple[PyJWK, ...], str]":
    """Return the keys, none where they are the known ones, and the text that tells them from others."""
    from jwt import PyJWKClient, PyJWKSet

    if is_address(place):
        content = PyJWKClient(place, cache_jwk_set=False, timeout=_TIMEOUT_S).fetch_data()
    else:
        content = json.loads(Path(place).read_bytes())
    digest = json.dumps(content, sort_keys=True)
    if digest == known:
        return (), digest
    keys = PyJWKSet.from_dict(content).keys
    signing = (key for key in keys if key.public_key_use in ("sig", None))
    return tuple(key for key in signing if key.algorithm_name in ALGORITHMS), digest
