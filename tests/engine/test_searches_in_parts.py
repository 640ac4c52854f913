"""Searches in parts: others have their turns in between, on the engine's thread and beside it, and find the same."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.support.engine_bench import flipped, signs

from attractor_server.energy.model import Model
from attractor_server.engine.engine import Engine
from attractor_server.engine.side_thread import SideThread
from attractor_server.memories.filters import Condition, Filter
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.outcomes import Unfinished
from attractor_server.memories.records import Item, NewMemory
from attractor_server.memories.search import Found, SearchQuery
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore

COUNT = 120
ODD = Filter([Condition(("odd",), "eq", True)])
WORDS = "word3 common"


class Bench:
    """An engine with a store, and a memory of many pages in it."""

    def __init__(self, folder: Path, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self.model, self._loop = model, loop
        self.database = SqliteDatabase(folder)
        self.journal = SqlMemoryStore(self.database)
        self.engine = Engine([model], bank_bytes=64 << 20, store=self.journal, part_s=0.0)
        self.memory, self.other = self._make("a"), self._make("b")
        self.given = signs(np.random.default_rng(5), COUNT)
        for memory in (self.memory, self.other):
            job = self._job(Operation.STORE, memory, self.given)
            job.items = [
                Item(
                    id=f"i{n // 2}",
                    payload=b'{"odd":%s}' % (b"true" if n % 2 else b"false"),
                    json=True,
                    text=f"word{n % 7}{' common' * (n % 3)}",
                )
                for n in range(COUNT)
            ]
            self.engine.run([job])

    def _make(self, name: str) -> MemoryRecord:
        settings = MemorySettings(page_patterns=8)
        new = NewMemory(name=name, model=self.model.name, model_digest=self.model.digest, settings=settings)
        return record_of(self.journal.create([new])[0])

    def _job(self, operation: Operation, memory: MemoryRecord, values: np.ndarray) -> Job:
        return Job(operation=operation, memory=memory, future=self._loop.create_future(), values=values)

    def search(self, memory: MemoryRecord, asked: SearchQuery) -> Job:
        job = self._job(Operation.SEARCH, memory, flipped(np.random.default_rng(6), self.given[17:18]))
        job.search, job.own_steps = asked, True
        return job


@pytest.fixture
def bench(tmp_path: Path, binary: Model, loop: asyncio.AbstractEventLoop) -> Iterator[Bench]:
    made = Bench(tmp_path, binary, loop)
    with closing(made.database):
        yield made


def describe(found: Found) -> list[tuple[str, float, float | None]]:
    return [(hit.item.id, hit.score, hit.probability) for hit in found.hits]


@pytest.mark.parametrize(
    "asked",
    [
        SearchQuery(size=10),
        SearchQuery(size=1000, by="cue"),
        SearchQuery(size=10, filter=ODD),
        SearchQuery(size=10, words=WORDS),
        SearchQuery(size=5, filter=ODD, words=WORDS, by="cue"),
    ],
)
def test_what_is_searched_in_parts_is_what_is_found_at_once_and_others_are_served_between(
    bench: Bench, asked: SearchQuery
) -> None:
    (whole,) = bench.engine.run([bench.search(bench.memory, asked)])
    assert isinstance(whole, Found)
    assert whole.hits[0].item.id == "i8"
    assert len({hit.item.id for hit in whole.hits}) == len(whole.hits) == min(asked.size, COUNT // 2)
    job, stops = bench.search(bench.memory, asked), 0
    job.cut = True
    while isinstance(outcome := bench.engine.run([job])[0], Unfinished):
        stops += 1
        (between,) = bench.engine.run([bench.search(bench.other, asked)])
        assert isinstance(between, Found)
        assert describe(between) == describe(whole)
    assert isinstance(outcome, Found)
    assert (describe(outcome), outcome.total, outcome.log_odds) == (describe(whole), whole.total, whole.log_odds)
    assert stops > 2


def test_long_looks_at_payloads_and_words_leave_the_engines_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Job]()
    plain = SideThread.make

    def make(thread: SideThread, job: Job, stops: object) -> object:
        made.append(job)
        return plain(thread, job, stops)  # type: ignore[arg-type]

    monkeypatch.setattr(SideThread, "make", make)
    job = bench.search(bench.memory, SearchQuery(size=3, filter=ODD))
    assert job.cost > bench.search(bench.memory, SearchQuery(size=3)).cost
    job.cut = True
    while isinstance(bench.engine.run([job])[0], Unfinished):
        pass
    assert made == [job]
