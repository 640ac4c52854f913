"""Quotas that a shard knows, read again when their file changes. Any thread may look them up."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from attractor_server.errors import SettingsError
from attractor_server.identity.quota_file import UNBOUNDED, Quota, QuotaTable, read_quotas

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
"""Time after which a change of the file is noticed"""

_KNOWN_LIMIT: Final = 16_384
"""Namespaces whose quota is at hand"""


class Quotas:
    """Bounds of namespaces. Without a file there are none."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the file.

        Raises:
            SettingsError: it cannot be read, or cannot be meant.
        """
        self._path = path
        self._stamp = self._read_stamp()
        self._table = QuotaTable() if path is None else read_quotas(path)
        self._known: dict[str, Quota] = {}
        self.revision = 0
        """Grows with each change"""
        self.on_limit: Callable[[str], object] = lambda namespace: None
        """Called, in any thread, with the namespace of a request that is refused or held back"""

    def of(self, namespace: str) -> Quota:
        """Return the bounds of that namespace."""
        if not self._table.entries:
            return UNBOUNDED
        known = self._known  # another one after a change
        if (quota := known.get(namespace)) is None:
            if len(known) >= _KNOWN_LIMIT:
                known.clear()
            quota = known[namespace] = self._table.find(namespace)
        return quota

    async def run(self) -> None:
        """Read the file again whenever it changes, until cancelled; what was right goes on where it is wrong now."""
        while self._path is not None:
            await anyio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Read the file again if it has changed."""
        assert self._path is not None
        stamp = await anyio.to_thread.run_sync(self._read_stamp)
        if stamp in (self._stamp, None):  # None: it is being replaced, or was taken away
            return
        try:
            table = await anyio.to_thread.run_sync(read_quotas, self._path)
        except SettingsError as error:
            logger.error("quotas stay as they were: %s", error.message)  # noqa: TRY400 - it says where
        else:
            self._table, self._known, self.revision = table, {}, self.revision + 1
        self._stamp = stamp

    def _read_stamp(self) -> tuple[int, int, int] | None:
        """Return what changes with the file; None where there is none."""
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
