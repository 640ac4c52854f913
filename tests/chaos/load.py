"""The load: memories that are stored to all the time, and memories that nobody touches meanwhile."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import anyio
import numpy as np
from anyio.abc import TaskGroup
from tests.chaos.ledger import Images, Ledger, patterns

import attractor

WORKERS = 6
PAGE = 4
"""Patterns of a page: images are written, and pages sealed, all the time"""
STILL = 4
STORES = 40
"""After which a worker begins a new memory"""
REST_S = 0.02
DRAFT = 1_000_000
"""Added to the number of a pattern that is to be corrected"""
KNOWN = np.arange(4) < 3
"""Columns of a pattern that a cue has"""


@dataclass
class Load:
    """Stores one after another to each of a few memories, until it is told to stop."""

    client: attractor.AsyncClient
    ledger: Ledger
    prefix: str
    timeout_s: float
    longest_s: float = 0.0
    """That a store took, from its first attempt to its answer"""
    _begun: list[int] = field(default_factory=lambda: [0] * WORKERS)
    _served: list[int] = field(default_factory=lambda: [0] * WORKERS)
    """The last store of each worker that was answered"""
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _stop: anyio.Event = field(default_factory=anyio.Event)
    _running: int = 0

    def start(self, tasks: TaskGroup) -> None:
        for worker in range(WORKERS):
            self._running += 1
            tasks.start_soon(self._work, worker)

    async def served(self, stores: int = 1) -> None:
        """Waits until each memory has taken so many stores that were begun after this call."""
        goal = [begun + stores for begun in self._begun]
        while any(done < wanted for done, wanted in zip(self._served, goal, strict=True)):
            await self._changed.wait()

    async def stop(self) -> None:
        """Returns when what was under way is answered."""
        self._stop.set()
        while self._running:
            await self._changed.wait()

    async def _work(self, worker: int) -> None:
        try:
            for generation in count():
                await self._fill(worker, f"{self.prefix}/busy/{worker}/{generation}", generation)
                if self._stop.is_set():
                    return
        finally:
            self._running -= 1
            self._tell()

    async def _fill(self, worker: int, name: str, generation: int) -> None:
        """Stores to a new memory until it has enough, a store fails, or the load ends."""
        try:
            memory = await made(self.client, name, worker + generation, timeout_s=self.timeout_s)
        except attractor.AttractorError as error:
            self.ledger.note("failed", name, f"{type(error).__name__}: {error}")
            return
        for number in range(1, STORES + 1):
            if self._stop.is_set() or not await self._store(worker, memory, name, number):
                return
            await anyio.sleep(random.uniform(0, REST_S))

    async def _store(self, worker: int, memory: attractor.AsyncMemory, name: str, number: int) -> bool:
        self._begun[worker] += 1
        begun = self._begun[worker]
        started_s = time.monotonic()
        self.ledger.note("sent", name)
        try:
            answer = await send(memory, name, number, timeout_s=self.timeout_s)
        except attractor.AttractorError as error:
            self.ledger.note("failed", name, f"{type(error).__name__}: {error}")
            return False
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - started_s)
        self.ledger.note("acknowledged", name, answer.version, answer.total)
        self._served[worker] = begun
        self._tell()
        return True

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def send(
    memory: attractor.AsyncMemory, name: str, number: int, *, timeout_s: float | None = None
) -> attractor.StoreResult:
    """Store a pattern, or a draft of it together with the correction of the one before."""
    if not corrects(name):
        return await memory.store(patterns(name, number), timeout_s=timeout_s)
    given, ids = patterns(name, DRAFT + number), [str(number)]
    if number > 1:
        given, ids = np.concatenate([patterns(name, number - 1), given]), [str(number - 1), *ids]
    return await memory.store(given, ids=ids, on_conflict="replace", timeout_s=timeout_s)


def corrects(name: str) -> bool:
    """Whether each store to that memory corrects the one before, of a memory that is rewritten."""
    _, _, worker, generation = name.split("/")
    return (int(worker) + int(generation)) % 4 == 0


def held_by(name: str, total: int) -> Images:
    """Patterns of a memory after so many stores: the last one is a draft where each is corrected by the next."""
    if not corrects(name):
        return patterns(name, 1, total)
    return np.concatenate([patterns(name, 1, total - 1), patterns(name, DRAFT + total)])


async def made(
    client: attractor.AsyncClient, name: str, number: int, *, timeout_s: float | None = None
) -> attractor.AsyncMemory:
    """A memory that is rewritten or added to, by its number."""
    write: attractor.WriteMode = "stream" if number % 2 else "rewrite"
    return await client.create_memory(name, model="tiny", write=write, page_patterns=PAGE, timeout_s=timeout_s)


async def recalled(client: attractor.AsyncClient, name: str, given: Images) -> Sequence[Images]:
    """What a memory makes of cues with a quarter missing: values, energies, and which page answered."""
    recall = await client.memory(name).query(given, known=np.broadcast_to(KNOWN, given.shape))
    return recall.pattern, recall.energy_after, recall.page.astype(np.float32)


async def still(client: attractor.AsyncClient, prefix: str) -> Mapping[str, Sequence[Images]]:
    """Memories of another tenant, made and filled one at a time; their answers."""
    answers = {}
    for number in range(STILL):
        name = f"other-{prefix}/{number}"
        memory = await made(client, name, number)
        for one in range(1, PAGE + 2):
            await memory.store(patterns(name, one))
        answers[name] = await recalled(client, name, patterns(name, 1, PAGE + 1))
    return answers
