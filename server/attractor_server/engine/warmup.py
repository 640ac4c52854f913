"""Warming: what programs cost when they run for the first time is paid before anybody waits for it.

On a GPU every shape of a batch is captured when it is met first, so that all are met before the shard serves. On a CPU
a model's first run may compile a kernel; other shapes cost little, and that is paid while there is nothing else to do.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch

from attractor_server.energy.model import Model
from attractor_server.errors import BankBroken, ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats
from attractor_server.memories.settings import MemorySettings, WriteMode
from attractor_server.scheduling.batcher import Executor
from attractor_server.scheduling.jobs import Job, Operation

logger = logging.getLogger(__name__)

CPU_BUDGET_S = 0.2
"""For the shapes of one model: on a CPU first runs cost little, whatever the shape"""

GPU_BUDGET_S = 20.0

SLOW_S = 1.0
"""A model that takes longer is told of, whether logs are asked for or not"""

MEMORIES_LIMIT = 1024

PATTERNS_LIMIT = 64

BANK_PART = 8
"""Scratch memories take no more than this part of a bank, so that nothing leaves it for them"""


class Warmup:
    """Every operation of every model, on scratch memories that nobody can name, in one shape after another."""

    def __init__(
        self, engine: Executor, models: Iterable[Model], *, bank_bytes: int, budget_s: float | None = None
    ) -> None:
        """`budget_s` bounds the time for all shapes of a model; None takes what its device needs."""
        self._engine = engine
        self._budget_s = budget_s
        self._models = list(models)
        self._bank_bytes = bank_bytes
        self.done = asyncio.Event()
        self.took_s: dict[str, float] = {}
        """By the name of the model, as far as they are warm"""

    def steps(self) -> Iterator[Callable[[], None]]:
        """Yield what is to be called in the engine's thread before the shard serves; then `done` is set."""
        for model in self._models:
            started_s = time.perf_counter()
            yield from islice(self._steps_of(model), 1 if _is_cpu(model) else None)
            took_s = self.took_s[model.name] = time.perf_counter() - started_s
            level = logging.WARNING if took_s > SLOW_S else logging.INFO
            done = f"{len(self.took_s)} of {len(self._models)} models"
            logger.log(level, "%s is warm after %.2f s (%s)", model.name, took_s, done)
        self.done.set()

    def more(self) -> Iterator[Callable[[], None]]:
        """Yield what can be called there later, when there is nothing else to do."""
        for model in self._models:
            if _is_cpu(model):
                yield from islice(self._steps_of(model), 1, None)

    def _steps_of(self, model: Model) -> Iterator[Callable[[], None]]:
        started_s = time.perf_counter()
        budget_s = self._budget_s or (CPU_BUDGET_S if _is_cpu(model) else GPU_BUDGET_S)
        room = max(1, self._bank_bytes // model.page_bytes // BANK_PART)
        loop = asyncio.get_running_loop()
        for memories, patterns in shapes(min(MEMORIES_LIMIT, room)):
            if (memories, patterns) != (1, 1) and time.perf_counter() - started_s > budget_s:
                return
            yield partial(self._warm, model, memories, patterns, loop)

    def _warm(self, model: Model, memories: int, patterns: int, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for jobs in Scratch(model, memories, patterns, loop).batches():
                for outcome in self._engine.run(jobs):
                    if isinstance(outcome, ServerError):
                        logger.debug("warming %s: %s", model.name, outcome)
        except BankBroken:
            raise
        except Exception:
            logger.exception("warming %s failed; its first requests will take longer", model.name)


def _is_cpu(model: Model) -> bool:
    return model.device.type == "cpu"


def shapes(memories_limit: int) -> Sequence[tuple[int, int]]:
    """Return memories and patterns in each, powers of two, small batches first."""
    memories = [1 << n for n in range(memories_limit.bit_length())]
    patterns = [1 << n for n in range(PATTERNS_LIMIT.bit_length())]
    return sorted(((m, p) for m in memories for p in patterns), key=lambda shape: (shape[0] * shape[1], shape))


class Scratch:
    """Memories of a model for one shape of batches; they are in no catalog."""

    def __init__(self, model: Model, memories: int, patterns: int, loop: asyncio.AbstractEventLoop) -> None:
        self.model = model
        self._memories = memories
        self._loop = loop
        unit = torch.zeros_like(model.encode(torch.zeros(1, model.layout.size, device=model.device)))
        self._values: Floats = np.repeat(model.decode(unit).float().cpu().numpy(), patterns, 0)
        """(patterns, values), the pattern in the middle of those trained with, again and again"""

    def batches(self) -> Iterator[Sequence[Job]]:
        """Yield batches of one program each, in an order that a client's could be in. The last one frees all places."""
        rewritten, streamed = self._records("rewrite"), self._records("stream")
        for records in (rewritten, streamed):
            yield self._jobs(Operation.STORE, records)
        yield from self._reads(rewritten)
        yield self._jobs(Operation.STORE, rewritten)  # the page is full: now there are two of them to read
        yield from self._reads(rewritten)
        if self.model.erases and len(self._values) == 1:  # several are erased one after another
            yield self._jobs(Operation.ERASE, streamed)
        for records in (rewritten, streamed):
            yield self._jobs(Operation.DELETE, records)

    def _reads(self, records: Sequence[MemoryRecord]) -> Iterator[Sequence[Job]]:
        yield self._jobs(Operation.QUERY, records)
        yield self._jobs(Operation.QUERY, records, known=True)
        if self.model.pulls:
            yield self._jobs(Operation.QUERY, records, known=True, pull=True)
        yield self._jobs(Operation.RECOGNIZE, records)

    def _records(self, write: WriteMode) -> Sequence[MemoryRecord]:
        settings = MemorySettings(write=write, page_patterns=len(self._values))
        name, digest = self.model.name, self.model.digest
        return [MemoryRecord(f"warming {n}", name, digest, time.time(), settings) for n in range(self._memories)]

    def _jobs(
        self, operation: Operation, records: Sequence[MemoryRecord], *, known: bool = False, pull: bool = False
    ) -> Sequence[Job]:
        return [
            Job(
                operation=operation,
                memory=record,
                future=self._loop.create_future(),
                values=None if operation is Operation.DELETE else self._values,
                known=np.ones(self._values.shape, np.bool_) if known else None,
                steps=self.model.steps if operation is Operation.QUERY else 0,
                pull=pull,
            )
            for record in records
        ]
