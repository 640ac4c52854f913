"""Who owns a group of slots, on real files: epochs fence what is written, leases what is read."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from attractor_server.errors import OwnerChanged
from attractor_server.memories.records import Change, NewMemory, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.sharding.slots import GROUPS, group_of
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.claims import Claims, end_owners
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.process import Incarnation

NAME = "a/b"
GROUP = group_of(NAME)
OTHER = next(name for name in "abcdefgh" if group_of(name) != GROUP)
LEASE_S = 2.0
Opened: TypeAlias = Callable[..., Claims]


class Clock:
    """Monotonic, and moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Opened]:
    """Makes shards of one store, each with a connection of its own."""
    with ExitStack() as stack:

        def open_one(shard: str, **changes: object) -> Claims:
            database = SqliteDatabase(tmp_path, busy_ms=200)
            owner = replace(Incarnation.here(shard), **changes)  # type: ignore[arg-type]
            return stack.enter_context(closing(Claims(database, owner, lease_s=LEASE_S, clock=clock)))

        yield open_one


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with closing(SqliteDatabase(tmp_path)) as one:
        yield one


def renew(ownership: Claims) -> None:
    ownership.trust(ownership.look())


def made(journal: SqlMemoryStore, name: str = NAME) -> StoredMemory:
    return journal.create(
        [NewMemory(name=name, model="m", model_digest="d", settings=MemorySettings(page_patterns=4))]
    )[0]


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_free_group_is_claimed_and_served_after_a_look(opened: Opened) -> None:
    one = opened("shard-0")
    one.claim([GROUP])
    assert one.held == {GROUP}
    assert not one.serves(NAME)
    renew(one)
    assert one.serves(NAME)
    assert not one.serves(OTHER)


def test_a_lease_ends_with_time_and_begins_with_the_start_of_a_look(opened: Opened, clock: Clock) -> None:
    one = opened("shard-0")
    one.claim([GROUP])
    look = one.look()
    clock.now_s += LEASE_S - 0.1
    one.trust(look)
    assert one.serves(NAME)
    clock.now_s += 0.2
    assert not one.fresh
    assert not one.serves(NAME)
    renew(one)
    assert one.serves(NAME)


def test_what_a_living_owner_has_is_taken_only_if_it_is_seized_and_served_when_its_lease_is_over(
    opened: Opened, clock: Clock
) -> None:
    old, new = opened("shard-0"), opened("shard-1")
    old.claim([GROUP])
    renew(old)
    new.claim([GROUP])
    assert not new.held
    new.claim([GROUP], seize=[GROUP])
    renew(new)
    assert old.serves(NAME)
    assert not new.serves(NAME)
    clock.now_s += LEASE_S
    renew(new)
    assert not old.serves(NAME)
    assert new.serves(NAME)
    look = old.look()
    assert old.lost(look) == {GROUP}
    old.trust(look)
    assert not old.held


def test_a_group_that_was_released_is_served_at_once(opened: Opened) -> None:
    old, new = opened("shard-0"), opened("shard-1")
    old.claim([GROUP])
    old.part([GROUP])
    with pytest.raises(OwnerChanged, match="goes to another shard"):
        old.epoch(NAME)
    old.release([GROUP])
    new.claim([GROUP])
    renew(new)
    assert new.serves(NAME)
    assert not old.look().lost


def test_a_group_of_a_process_that_has_ended_is_served_at_once(opened: Opened) -> None:
    old, new = opened("shard-0", process=ended_process()), opened("shard-1")
    old.claim([GROUP])
    new.claim([GROUP])
    renew(new)
    assert new.serves(NAME)


def test_a_shard_that_was_started_anew_waits_for_the_one_before_unless_that_is_known_to_have_ended(
    opened: Opened, clock: Clock
) -> None:
    opened("shard-0", machine="elsewhere").claim([GROUP])
    new = opened("shard-0")
    new.claim([GROUP])
    renew(new)
    assert not new.serves(NAME)
    clock.now_s += LEASE_S
    renew(new)
    assert new.serves(NAME)


def test_whoever_takes_a_group_from_one_that_had_to_wait_waits_too(opened: Opened, clock: Clock) -> None:
    opened("shard-0").claim([GROUP])
    second = opened("shard-1", process=ended_process())
    second.claim([GROUP], seize=[GROUP])
    third = opened("shard-2")
    third.claim([GROUP])
    renew(third)
    assert not third.serves(NAME)
    clock.now_s += LEASE_S
    renew(third)  # from here on nobody has to wait
    third.release([GROUP])
    second.claim([GROUP])
    renew(second)
    assert second.serves(NAME)


def test_nothing_is_changed_under_an_epoch_that_is_over(opened: Opened, database: SqliteDatabase) -> None:
    old, new = opened("shard-0"), opened("shard-1")
    old.claim(range(GROUPS))
    behind = SqlMemoryStore(database, old)
    memory = made(behind)
    new.claim([GROUP], seize=[GROUP])
    for change in (
        lambda: behind.commit([Change(memory=memory.id, version=1, patterns=1)]),
        lambda: behind.delete(memory.id),
        lambda: made(behind),
    ):
        with pytest.raises(OwnerChanged, match="lost a group"):
            change()
    found = behind.find(NAME)
    assert found is not None
    assert found.version == 0
    other = made(behind, OTHER)
    behind.commit([Change(memory=other.id, version=1, patterns=1)])  # what is still its own
    SqlMemoryStore(database, new).commit([Change(memory=memory.id, version=1, patterns=1)])


def test_an_owner_that_is_stopped_within_a_transaction_is_ended(opened: Opened, tmp_path: Path) -> None:
    new = opened("shard-1")
    stopped = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert stopped.stdout is not None
    with stopped.stdout:
        assert stopped.stdout.readline() == "within\n"
    new.claim([GROUP], seize=[GROUP])
    assert stopped.wait(10) == -9
    renew(new)
    assert new.serves(NAME)


STOPPED = """
import sys, time
from pathlib import Path
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.claims import claim_all
database = SqliteDatabase(Path(sys.argv[1]))
claim_all(database, "shard-0")
with database.transaction():
    print("within", flush=True)
    time.sleep(60)
"""


def test_owners_that_were_ended_are_gone(database: SqliteDatabase, tmp_path: Path) -> None:
    large = subprocess.Popen([sys.executable, "-c", LARGE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert large.stdout is not None
    with large.stdout:
        assert large.stdout.readline() == "owner\n"
    end_owners(database)
    assert large.poll() == -9


LARGE = """
import sys, time
from pathlib import Path
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.claims import claim_all
much = b"x" * (512 << 20)  # which takes its system a while to take back
claim_all(SqliteDatabase(Path(sys.argv[1])), "shard-0")
print("owner", flush=True)
time.sleep(60)
"""


def test_an_incarnation_is_read_as_it_was_written_and_knows_whether_it_is_over() -> None:
    here = Incarnation.here("shard-3")
    assert Incarnation.of(str(here)) == here
    assert not here.is_over
    assert replace(here, started="1").is_over  # its id has gone to another process
    assert replace(here, process=ended_process()).is_over
    assert not replace(here, process=ended_process(), machine="elsewhere").is_over
    here.end()  # never this process
    assert here.process == os.getpid()
