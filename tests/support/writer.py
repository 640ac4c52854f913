"""A client at work while shards come and go."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from tests.support.server_process import until

import attractor

ONE = np.full((4, 4), 0.5, np.float32)
QUICK = attractor.Retry(first_delay_s=0.02, limit_delay_s=0.2)


class Writer:
    """Stores into a memory and queries it, one call after another; keeps what it was told."""

    def __init__(self, address: str, name: str) -> None:
        self.versions: list[int] = []
        self.slowest_s = 0.0
        self.error: Exception | None = None
        self._address, self.name = address, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            until(lambda: len(self.versions) > 3 or self.error is not None)
            yield
        finally:
            self._stop.set()
            self._thread.join(60)
            assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with attractor.Client(self._address, timeout_s=60, retry=QUICK) as client:
                memory = client.create_memory(self.name, model="tiny", write="stream")
                while not self._stop.is_set():
                    begun_s = time.monotonic()
                    self.versions.append(memory.store(ONE).version)
                    memory.query(ONE)
                    self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
        except Exception as error:
            self.error = error
