"""What only a store in PostgreSQL meets: servers that restart, connections that are cut, several writers at a time."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from tests.support.postgresql import WAIT_S, PostgresServer

from attractor_server.cli.main import main
from attractor_server.errors import SettingsError, StoreDamaged, StoreFailed
from attractor_server.memories.records import Change, Entry, NewMemory, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.backends import postgres_lock
from attractor_server.storage.backends.postgres import PostgresDatabase
from attractor_server.storage.backends.postgres_lock import Address
from attractor_server.storage.claims import Claims
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.process import Incarnation

VALUES = np.ones((1, 8), np.float32)


@pytest.fixture
def uri(postgres: PostgresServer) -> str:
    return postgres.store()


@pytest.fixture
def journal(uri: str) -> Iterator[SqlMemoryStore]:
    with closing(PostgresDatabase(uri)) as store:
        yield SqlMemoryStore(store)


def made(journal: SqlMemoryStore, name: str = "a") -> StoredMemory:
    new = NewMemory(name=name, model="m", model_digest="sha256:1", settings=MemorySettings(page_patterns=4))
    return journal.create([new])[0]


def store(journal: SqlMemoryStore, memory: StoredMemory, version: int) -> None:
    entry = Entry(page=0, version=version, written=version, values=VALUES)
    journal.commit([Change(memory=memory.id, version=version, patterns=version, pages={0: version}, entries=[entry])])


def versions(journal: SqlMemoryStore, memory: StoredMemory) -> list[int]:
    return [entry.version for entry in journal.page(memory.id, 0).entries]


class Writer:
    """Stores without end; after a failure it goes on from what the store has, as the engine does."""

    def __init__(self, journal: SqlMemoryStore) -> None:
        self.journal, self.memory = journal, made(journal)
        self.acknowledged = list[int]()
        self.failures = list[StoreFailed]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(WAIT_S)

    def wait_for_more(self, count: int = 20) -> None:
        """Until so many more stores were acknowledged."""
        wanted, end_s = len(self.acknowledged) + count, time.monotonic() + WAIT_S
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < end_s, self.failures[-1:]
            time.sleep(0.01)

    def _run(self) -> None:
        version = 0
        while not self._stop.is_set():
            try:
                store(self.journal, self.memory, version + 1)
                version += 1
                self.acknowledged.append(version)
            except StoreFailed as failure:
                self.failures.append(failure)
                version = self._version()

    def _version(self) -> int:
        while not self._stop.is_set():
            try:
                found = self.journal.find("a")
            except StoreFailed:
                self._stop.wait(0.05)
            else:
                assert found is not None
                return found.version
        return 0


def test_nothing_acknowledged_is_lost_while_connections_are_cut(
    postgres: PostgresServer, journal: SqlMemoryStore
) -> None:
    writer = Writer(journal)
    with writer.running():
        for _ in range(5):
            writer.wait_for_more()
            postgres.cut_off()
        writer.wait_for_more()
    kept = versions(journal, writer.memory)
    assert set(writer.acknowledged) <= set(kept)
    assert kept == list(range(1, len(kept) + 1))


def test_nothing_acknowledged_is_lost_while_the_server_restarts(
    postgres: PostgresServer, journal: SqlMemoryStore
) -> None:
    writer = Writer(journal)
    with writer.running():
        for _ in range(2):
            writer.wait_for_more()
            postgres.stop()
            postgres.start()
        writer.wait_for_more()
    kept = versions(journal, writer.memory)
    assert set(writer.acknowledged) <= set(kept)
    assert kept == list(range(1, len(kept) + 1))
    assert writer.failures


def test_a_connection_that_was_cut_while_nobody_used_it_is_made_anew(
    postgres: PostgresServer, journal: SqlMemoryStore
) -> None:
    memory = made(journal)
    for version in (1, 2):
        store(journal, memory, version)
        postgres.cut_off()
    assert versions(journal, memory) == [1, 2]


def test_groups_are_released_in_order_so_that_nobody_waits_in_a_circle(postgres: PostgresServer, uri: str) -> None:
    with closing(Claims(PostgresDatabase(uri), Incarnation.here("shard-0"))) as ownership:
        ownership.claim([1])
        ownership.claim([0])
        with psycopg.connect(uri) as other, ThreadPoolExecutor(1) as threads:
            other.execute("SELECT 1 FROM groups WHERE number = 0 FOR UPDATE")
            released = threads.submit(ownership.release, [0, 1])
            until_waiting(postgres)
            other.execute("SELECT 1 FROM groups WHERE number = 1 FOR UPDATE NOWAIT")
            other.rollback()
            released.result(WAIT_S)


def until_waiting(postgres: PostgresServer) -> None:
    """Returns when somebody waits for a lock."""
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        end_s = time.monotonic() + WAIT_S
        while not connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
            assert time.monotonic() < end_s
            time.sleep(0.01)


def test_a_server_that_is_gone_is_named_and_its_password_is_not(
    postgres: PostgresServer, journal: SqlMemoryStore
) -> None:
    memory = made(journal)
    secret = postgres.uri.replace("attractor@", "attractor:hidden@")
    postgres.stop()
    try:
        with pytest.raises(StoreFailed, match=r"the store postgresql://127\.0\.0\.1:\d+/postgres failed and changed"):
            store(journal, memory, 1)
        with pytest.raises(StoreFailed) as refused:
            PostgresDatabase(secret)
    finally:
        postgres.start()
    assert "hidden" not in str(refused.value)
    store(journal, memory, 1)


@pytest.mark.parametrize("uri", ["mysql://somewhere/db", "postgresql://user:hidden@host/db?colour=red", "nowhere"])
def test_an_address_that_cannot_be_read_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(SettingsError, match=r"backend_store_uri: .*expected postgresql://") as refused:
        Address(uri)
    assert "hidden" not in str(refused.value)


def test_a_commit_of_a_paused_owner_makes_its_successor_wait_and_is_cut_off(uri: str) -> None:
    with closing(PostgresDatabase(uri)) as paused, closing(PostgresDatabase(uri)) as other:
        first = SqlMemoryStore(paused)
        memory = made(first)
        claimed = threading.Event()

        def claim() -> None:
            SqlMemoryStore(other)
            claimed.set()

        successor = threading.Thread(target=claim)
        with first._change(memories=[memory.id]) as cursor:
            successor.start()
            assert not claimed.wait(0.5)
            cursor.execute("UPDATE memories SET version = 7 WHERE id = ?", (memory.id,))
        assert claimed.wait(WAIT_S)
        successor.join(WAIT_S)
        found = SqlMemoryStore(other).find("a")
    assert found is not None
    assert found.version == 7


def test_of_two_that_leave_shared_contents_at_a_time_the_second_takes_them_away(
    postgres: PostgresServer, uri: str
) -> None:
    with closing(PostgresDatabase(uri)) as one, closing(PostgresDatabase(uri)) as other:
        mine = SqlMemoryStore(one)
        theirs = SqlMemoryStore(other, mine.ownership)
        for number in range(20):
            memory = made(mine, f"origin/{number}")
            store(mine, memory, 1)
            fork = mine.fork(memory.id, f"fork/{number}")
            start = threading.Barrier(2)

            def leave(journal: SqlMemoryStore, identity: int, start: threading.Barrier = start) -> None:
                start.wait(WAIT_S)
                journal.delete(identity)

            threads = [
                threading.Thread(target=leave, args=arguments) for arguments in ((mine, memory.id), (theirs, fork.id))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT_S)
        with one.read() as cursor:
            assert cursor.execute(
                "SELECT (SELECT count(*) FROM contents), (SELECT count(*) FROM entries)"
            ).fetchone() == (
                0,
                0,
            )


def test_a_newer_format_is_refused_and_left_alone(postgres: PostgresServer, uri: str) -> None:
    PostgresDatabase(uri).close()
    postgres.execute("UPDATE schema_version SET version = 99", uri)
    with pytest.raises(StoreDamaged, match=r"has format 99; this version reads up to \d"):
        PostgresDatabase(uri)


def test_shards_that_start_together_make_the_tables_once(uri: str) -> None:
    failures = list[Exception]()

    def start() -> None:
        try:
            PostgresDatabase(uri).close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not failures


def test_commits_wait_for_the_disk_whatever_the_database_says(uri: str) -> None:
    with closing(PostgresDatabase(f"{uri}%20-c%20synchronous_commit%3Doff")) as store, store.read() as cursor:
        assert cursor.execute("SELECT current_setting('synchronous_commit')").fetchone() == ("on",)


def test_a_second_server_of_a_database_is_refused_and_told_who_has_it(postgres: PostgresServer) -> None:
    uri = postgres.store()
    with postgres_lock.lock_database(uri), postgres_lock.lock_database(postgres.store()):
        result = CliRunner().invoke(main, ["serve", "--backend-store-uri", uri, "--port", "0"])
        assert result.exit_code == 2
        assert result.stderr.startswith("attractor: backend_store_uri: saw postgresql://127.0.0.1:")
        assert f"process {os.getpid()} on" in result.stderr
    with postgres_lock.lock_database(uri):
        pass


def test_the_lock_of_a_server_whose_connection_is_cut_is_taken_anew(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_lock, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(postgres_lock, "TRY_S", 0)
    taken, plain = threading.Semaphore(0), postgres_lock._Lock.take

    def take(lock: postgres_lock._Lock) -> None:
        plain(lock)
        taken.release()

    monkeypatch.setattr(postgres_lock._Lock, "take", take)
    uri = postgres.store()
    with postgres_lock.lock_database(uri):
        assert taken.acquire(timeout=20)
        postgres.cut_off()
        assert taken.acquire(timeout=20)
        with pytest.raises(SettingsError, match="where a server stores already"), postgres_lock.lock_database(uri):
            pass
