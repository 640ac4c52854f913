"""A batch of many memories: what one of them fails with is its own."""

import asyncio
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from tests.support.engine_bench import Values
from tests.support.tiny_models import IMAGE, able_model

from attractor_server.engine.engine import Engine
from attractor_server.engine.operations import plans
from attractor_server.errors import ServerError, StoreFailed
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.outcomes import Erased, Outcome, Recalled, Recognized, Stored
from attractor_server.memories.records import Change, NewMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.memory_store import SqlMemoryStore

MODEL = able_model("able", IMAGE)
PAGE = 4
WORST = 5
NAMES = [f"m{number}" for number in range(9)]


class Many:
    """An engine, its store, and memories of different namespaces."""

    def __init__(self, store_uri: str, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = open_store(store_uri), loop
        self.journal = SqlMemoryStore(self._store)
        self.engine = Engine([MODEL], bank_bytes=1 << 20, store=self.journal)
        settings = MemorySettings(page_patterns=PAGE)
        new = [NewMemory(name=name, model="able", model_digest=MODEL.digest, settings=settings) for name in NAMES]
        self.memories: list[MemoryRecord] = [record_of(one) for one in self.journal.create(new)]

    def close(self) -> None:
        self._store.close()

    def run(self, operation: Operation, values: Sequence[Values]) -> list[Outcome | ServerError]:
        """The same operation on all memories in one batch, each with its own values."""
        steps = MODEL.steps if operation is Operation.QUERY else 0
        return self.engine.run(
            [
                Job(operation=operation, memory=memory, future=self._loop.create_future(), values=given, steps=steps)
                for memory, given in zip(self.memories, values, strict=True)
            ]
        )

    def overflow(self, number: int) -> None:
        """Bring a memory to the last version that the store can say: its next write cannot be kept."""
        with self._store.transaction() as cursor:
            cursor.execute("UPDATE memories SET version = ? WHERE name = ?", (2**63 - 1, NAMES[number]))
        self.memories[number].at_hand = False

    def kept(self) -> list[int]:
        """The patterns that the store counts in each memory."""
        found = self.journal.find_all(NAMES)
        return [-1 if one is None else one.patterns for one in found]


@pytest.fixture
def many(store_uri: str) -> Iterator[Many]:
    loop = asyncio.new_event_loop()
    made = Many(store_uri, loop)
    yield made
    made.close()
    loop.close()


def some(seed: int = 0) -> list[Values]:
    random = np.random.default_rng(seed)
    return [random.random((1, IMAGE.size), dtype=np.float32) for _ in NAMES]


def others(outcomes: Sequence[Outcome | ServerError]) -> list[Outcome | ServerError]:
    assert isinstance(outcomes[WORST], ServerError), outcomes[WORST]
    return [one for number, one in enumerate(outcomes) if number != WORST]


def test_stores_are_kept_beside_one_that_the_store_cannot_keep(many: Many) -> None:
    many.run(Operation.STORE, some())
    many.overflow(WORST)
    assert others(many.run(Operation.STORE, some(1))) == [Stored(2, 2)] * (len(NAMES) - 1)
    assert many.kept() == [1 if number == WORST else 2 for number in range(len(NAMES))]
    assert others(many.run(Operation.STORE, some(2))) == [Stored(3, 3)] * (len(NAMES) - 1)


def test_erases_are_kept_beside_one_that_the_store_cannot_keep(many: Many) -> None:
    many.run(Operation.STORE, given := some())
    many.overflow(WORST)
    assert others(many.run(Operation.ERASE, given)) == [Erased(2, 0)] * (len(NAMES) - 1)
    assert many.kept() == [1 if number == WORST else 0 for number in range(len(NAMES))]


def test_a_store_that_nobody_foresaw_is_no_other_s_fault(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    take = plans.StorePlan._take

    def failing(self: plans.StorePlan, job: Job) -> None:
        if self.memory.name == NAMES[WORST]:
            raise KeyError("a page that is not there")
        take(self, job)

    monkeypatch.setattr(plans.StorePlan, "_take", failing)
    assert others(many.run(Operation.STORE, some())) == [Stored(1, 1)] * (len(NAMES) - 1)
    monkeypatch.undo()
    assert many.run(Operation.STORE, some(1))[WORST] == Stored(1, 1)


def test_what_all_members_fail_with_is_one_line_of_the_log_without_a_traceback(
    many: Many, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    number = str(time.monotonic_ns())  # what another test failed with a moment ago is not written again

    def failing(self: plans.StorePlan, job: Job) -> None:
        raise KeyError(f"none of {number}")

    monkeypatch.setattr(plans.StorePlan, "_take", failing)
    assert all(isinstance(one, ServerError) for one in many.run(Operation.STORE, some()))
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "KeyError" in line.getMessage()
    assert number in line.getMessage()
    assert line.exc_info is None


@pytest.mark.parametrize("operation", [Operation.STORE, Operation.ERASE, Operation.QUERY, Operation.RECOGNIZE])
@pytest.mark.parametrize("fresh", [True, False], ids=["at hand", "from the store"])
def test_values_that_the_model_cannot_compute_fail_alone(many: Many, operation: Operation, *, fresh: bool) -> None:
    many.run(Operation.STORE, given := some())
    if not fresh:
        for memory in many.memories:
            memory.pages.clear()
            memory.at_hand = False
    asked = list(given)
    asked[WORST] = np.zeros((1, IMAGE.size + 1), np.float32)  # which no request can have that was checked
    kind = {
        Operation.STORE: Stored,
        Operation.ERASE: Erased,
        Operation.QUERY: Recalled,
        Operation.RECOGNIZE: Recognized,
    }[operation]
    assert all(isinstance(one, kind) for one in others(many.run(operation, asked)))


def test_a_store_that_is_gone_is_not_asked_for_each_member(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    many.run(Operation.STORE, some())
    asked: list[int] = []
    now_s = iter(range(0, 10_000, 10))

    def busy(changes: Sequence[Change]) -> None:
        asked.append(len(changes))
        raise StoreFailed("the database is locked")

    monkeypatch.setattr(many.journal, "commit", busy)
    monkeypatch.setattr("attractor_server.engine.operations.persist.perf_counter", lambda: next(now_s))
    outcomes = many.run(Operation.STORE, some(1))
    assert all(isinstance(one, StoreFailed) for one in outcomes)
    assert len(asked) < len(NAMES)
    monkeypatch.undo()
    assert many.run(Operation.STORE, some(1)) == [Stored(2, 2)] * len(NAMES)
