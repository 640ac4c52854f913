"""The engine with a real store behind it: what happens where a commit fails."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import numpy as np
import pytest
from tests.support.engine_bench import Values
from tests.support.tiny_models import IMAGE, tiny_model

from attractor_server.engine.engine import Engine
from attractor_server.errors import ServerError, StoreFailed, WriteDiverged
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.outcomes import Outcome, Stored
from attractor_server.memories.records import Change, NewMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.storage.backends.sqlite import FILE, SqliteDatabase
from attractor_server.storage.memory_store import SqlMemoryStore

MODEL = tiny_model("tiny", IMAGE)


class Kept:
    """An engine, its store, and one memory."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.loop = folder / FILE, loop
        self.database = SqliteDatabase(folder)
        self.journal = SqlMemoryStore(self.database)
        self.engine = Engine([MODEL], bank_bytes=1 << 20, store=self.journal)
        new = NewMemory(name="a", model="tiny", model_digest=MODEL.digest, settings=MemorySettings(page_patterns=8))
        self.memory: MemoryRecord = record_of(self.journal.create([new])[0])

    def store(self, *several: Values) -> list[Outcome | ServerError]:
        """In one batch."""
        return self.engine.run(
            [
                Job(operation=Operation.STORE, memory=self.memory, future=self.loop.create_future(), values=values)
                for values in several
            ]
        )

    def numbered(self, sequence: int, values: Values) -> Outcome | ServerError:
        """As the client's store of that number."""
        job = Job(operation=Operation.STORE, memory=self.memory, future=self.loop.create_future(), values=values)
        job.client_id, job.sequence = "c", sequence
        return self.engine.run([job])[0]

    @contextmanager
    def refusing(self, condition: str) -> Iterator[None]:
        """The store takes no entry of which the condition is true."""
        with closing(apsw.Connection(str(self.path))) as other:
            other.set_busy_timeout(5000)
            other.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON entries "
                f"WHEN {condition} BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
            yield
            other.execute("DROP TRIGGER refuse")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    loop = asyncio.new_event_loop()
    made = Kept(tmp_path, loop)
    yield made
    made.database.close()
    loop.close()


def some(random: np.random.Generator, count: int = 1) -> Values:
    return random.random((count, IMAGE.size), dtype=np.float32)


def test_what_is_committed_is_what_was_answered(kept: Kept, random: np.random.Generator) -> None:
    assert kept.store(some(random), some(random, 2)) == [Stored(1, 1), Stored(2, 3)]
    found = kept.journal.find("a")
    assert found is not None
    assert (found.version, found.patterns) == (2, 3)


def test_after_a_commit_that_failed_the_memory_goes_on_from_what_the_store_has(
    kept: Kept, random: np.random.Generator
) -> None:
    kept.store(some(random))
    with kept.refusing("TRUE"):
        (failed,) = kept.store(some(random))
    assert isinstance(failed, StoreFailed)
    assert kept.store(some(random)) == [Stored(2, 2)]


def test_a_repeat_of_a_commit_whose_outcome_was_lost_gets_the_first_answer(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    commit, values = kept.journal.commit, some(random)

    def lost(changes: Sequence[Change]) -> None:
        commit(changes)
        raise StoreFailed("the connection was lost in a commit")

    monkeypatch.setattr(kept.journal, "commit", lost)
    assert isinstance(kept.numbered(1, values), StoreFailed)
    monkeypatch.undo()
    assert kept.numbered(1, values) == Stored(1, 1)
    assert kept.numbered(2, values) == Stored(2, 2)


def test_stores_behind_one_that_was_not_committed_fail_with_it(kept: Kept, random: np.random.Generator) -> None:
    bad = np.full((1, IMAGE.size), 1e30, np.float32)
    with kept.refusing("NEW.version = 1"):
        first, second, third = kept.store(
            some(random), bad, some(random)
        )  # which diverge together, and so are tried one by one
    assert isinstance(first, StoreFailed)
    assert isinstance(second, StoreFailed | WriteDiverged)
    assert isinstance(third, StoreFailed)
    assert kept.store(some(random)) == [Stored(1, 1)]


def test_a_memory_of_a_model_that_is_not_loaded_can_be_forgotten(kept: Kept, random: np.random.Generator) -> None:
    kept.store(some(random))
    engine = Engine([], bank_bytes=1, store=kept.journal)
    engine.run([Job(operation=Operation.DELETE, memory=kept.memory, future=kept.loop.create_future())])
    assert kept.journal.find("a") is None
