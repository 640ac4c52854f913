"""Certificates of a shard, read again when their files change."""

import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio import to_thread

from attractor_server.errors import SettingsError
from attractor_server.shard.pem_files import PemContents, read_pem_files, stat_files
from attractor_server.shard.spec import TLSFiles

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0


class Certificates:
    """Contents of a shard's PEM files, as they are now. Threads may share it."""

    def __init__(self, files: TLSFiles) -> None:
        """Read the files.

        Raises:
            SettingsError: one is missing, cannot be read, or does not go with the others.
        """
        self.files = files
        self._lock = threading.Lock()
        self._seen = stat_files(files)
        self._current = self._read()

    @property
    def current(self) -> PemContents:
        """Contents that were read last."""
        return self._current

    def look(self) -> PemContents:
        """Return what the files hold; where that is of no use, as while they are replaced, what they held before."""
        with self._lock:
            if (seen := stat_files(self.files)) != self._seen:
                self._seen = seen
                try:
                    self._current = self._read()
                    logger.info("new connections use the certificates that were read anew")
                except SettingsError as error:
                    logger.warning("certificates stay as they were: %s", error.message)
            return self._current

    async def watch(self, renewed: Callable[[], Awaitable[None]]) -> None:
        """Look now and then; call `renewed` after each change, and warn, once, of a certificate that is overdue."""
        known = self._current
        warned: PemContents | None = None
        while True:
            if known is not warned and known.expires_s and known.overdue_s < time.time():
                left_h, warned = (known.expires_s - time.time()) / 3600, known
                logger.warning("the certificate in %s expires in %.0f hours", self.files.certificate, left_h)
            await anyio.sleep(LOOK_EVERY_S)
            if (now := await to_thread.run_sync(self.look)) is not known:
                known = now
                await renewed()

    def _read(self) -> PemContents:
        contents = read_pem_files(self.files)
        if contents.warning:
            logger.warning("other shards would not believe this one: %s", contents.warning)
        return contents
