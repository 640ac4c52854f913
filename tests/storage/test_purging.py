"""What was deleted leaves the files, and nobody who writes waits for somebody who reads."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.support.stored_memories import bytes_in, made, some, store

from attractor_server.storage.backends.base import BUSY_MS
from attractor_server.storage.backends.opening import inspect_store
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.memory_store import SqlMemoryStore

FAR_LESS_S = BUSY_MS / 1000 / 4


def gone(folder: Path) -> bool:
    return some(1).tobytes() not in bytes_in(folder)


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_delete_and_what_comes_after_it_wait_for_nobody_who_looks_at_the_store(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        journal = SqlMemoryStore(database)
        store(journal, made(journal, "a").id, 1)
        other = made(journal, "b")
        with inspect_store(uri_of(tmp_path)):
            started_s = time.monotonic()
            for name in ("a", "b", "c"):
                journal.delete(made(journal, name).id)
            store(journal, made(journal, other.name).id, 2)
            assert time.monotonic() - started_s < FAR_LESS_S
            assert not gone(tmp_path)
        wait_until(lambda: gone(tmp_path))


def test_a_store_can_be_left_while_somebody_looks_and_purges_when_it_is_opened_anew(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path)
    journal = SqlMemoryStore(database)
    store(journal, made(journal, "a").id, 1)
    with inspect_store(uri_of(tmp_path)):
        started_s = time.monotonic()
        journal.delete(made(journal, "a").id)
        database.close()
        assert time.monotonic() - started_s < FAR_LESS_S
    assert not gone(tmp_path)
    with closing(SqliteDatabase(tmp_path)):
        wait_until(lambda: gone(tmp_path))
