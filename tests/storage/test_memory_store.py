"""The backend store through its public face, on real files and in a real database."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import numpy as np
import pytest

from attractor_server.errors import OwnerChanged, StoreDamaged, StoreFailed
from attractor_server.memories.ledger import REMEMBERED_ANSWERS
from attractor_server.memories.records import Change, Entry, Floats, Image, NewMemory, PageRow, StoredMemory, WriteAck
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.backends.sqlite import SqliteDatabase
from attractor_server.storage.database import Store
from attractor_server.storage.memory_store import SqlMemoryStore

SETTINGS = MemorySettings(page_patterns=4)


def opened(backend_uri: str) -> closing[Store]:
    store = open_store(backend_uri)
    return closing(store)


def made(journal: SqlMemoryStore, name: str = "a/b") -> StoredMemory:
    return journal.create([NewMemory(name=name, model="m", model_digest="sha256:1", settings=SETTINGS)])[0]


def some(seed: int, count: int = 2) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, 3), dtype=np.float32)


def stored(
    memory: StoredMemory, version: int, values: Floats, *, page: int = 0, told: WriteAck | None = None
) -> Change:
    return Change(
        memory=memory.id,
        version=version,
        patterns=len(values),
        pages={page: len(values)},
        entries=[Entry(page=page, version=version, written=version, values=values)],
        told=[] if told is None else [told],
    )


def test_what_was_committed_is_found_again_after_reopening(backend_uri: str) -> None:
    told = WriteAck(client="c", sequence=1, version=1, patterns=2)
    with opened(backend_uri) as store:
        memory = made(SqlMemoryStore(store))
        SqlMemoryStore(store).commit([stored(memory, 1, some(1), told=told)])
    with opened(backend_uri) as store:
        found = SqlMemoryStore(store).find("a/b")
        assert found is not None
        page = SqlMemoryStore(store).page(found.id, 0)
    assert (found.version, found.patterns, found.pages, found.told) == (
        1,
        2,
        [PageRow(number=0, patterns=2, image=False, entries=True)],
        [told],
    )
    assert found.settings == SETTINGS
    np.testing.assert_array_equal(page.entries[0].values, some(1))


def test_creating_a_name_twice_returns_the_memory_that_is_there(journal: SqlMemoryStore) -> None:
    first = made(journal)
    other = NewMemory(name="a/b", model="other", model_digest="sha256:2", settings=SETTINGS)
    assert journal.create([other, other]) == [first, first]


def test_a_commit_that_fails_applies_none_of_its_changes(journal: SqlMemoryStore) -> None:
    memory, other = made(journal), made(journal, "other")
    journal.commit([stored(memory, 1, some(1))])
    with pytest.raises(StoreFailed, match="changed nothing"):
        journal.commit([stored(other, 1, some(2)), stored(memory, 1, some(3))])  # version 1 is there
    found = journal.find("other")
    assert found is not None
    assert (found.version, found.pages) == (0, [])
    journal.commit([stored(other, 1, some(2))])


def test_entries_after_an_image_alone_are_replayed(journal: SqlMemoryStore) -> None:
    memory = made(journal)
    journal.commit([stored(memory, 1, some(1))])
    image = Image(page=0, version=1, content=b"weights")
    journal.commit([Change(memory=memory.id, version=1, patterns=2, pages={0: 2}, images=[image])])
    journal.commit([stored(memory, 2, some(2))])
    page, found = journal.page(memory.id, 0), journal.find("a/b")
    assert page.image == image
    assert [entry.version for entry in page.entries] == [2]
    assert found is not None
    assert found.pages == [PageRow(number=0, patterns=2, image=True, entries=True)]


def test_emptied_and_dropped_pages_leave_no_entries(journal: SqlMemoryStore) -> None:
    memory = made(journal)
    journal.commit([stored(memory, 1, some(1)), stored(memory, 2, some(2), page=1)])
    kept = Entry(page=1, version=3, written=3, values=some(3, 1))
    journal.commit(
        [Change(memory=memory.id, version=3, patterns=1, dropped=[0], emptied=[1], pages={1: 1}, entries=[kept])]
    )
    found = journal.find("a/b")
    assert found is not None
    assert found.pages == [PageRow(number=1, patterns=1, image=False, entries=True)]
    assert [entry.version for entry in journal.page(memory.id, 1).entries] == [3]
    assert not journal.page(memory.id, 0).entries


def test_a_change_of_a_deleted_memory_is_dropped(journal: SqlMemoryStore) -> None:
    memory = made(journal)
    journal.delete(memory.id)
    journal.commit([stored(memory, 1, some(1))])
    assert made(journal).id != memory.id
    assert not journal.page(memory.id, 0).entries


def test_no_byte_of_a_deleted_memory_stays_in_the_files(tmp_path: Path, on_disk: SqlMemoryStore) -> None:
    memory, neighbour = made(on_disk), made(on_disk, "neighbour")
    secret, other = some(1, 400), some(2, 400)
    on_disk.commit([stored(memory, 1, secret), stored(neighbour, 1, other)])
    on_disk.delete(memory.id)
    on_disk.commit([stored(neighbour, 2, some(3))])
    bytes_left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert other[200].tobytes() in bytes_left
    assert not any(row.tobytes() in bytes_left for row in secret)


def test_only_as_many_answers_are_kept_as_are_remembered(journal: SqlMemoryStore) -> None:
    memory = made(journal)
    told = [WriteAck(client="c", sequence=n, version=n, patterns=n) for n in range(1, REMEMBERED_ANSWERS + 3)]
    journal.commit([Change(memory=memory.id, version=len(told), patterns=0, told=told)])
    found = journal.find("a/b")
    assert found is not None
    assert [one.sequence for one in found.told] == list(range(3, REMEMBERED_ANSWERS + 3))


def test_names_come_in_order_by_prefix_and_place(journal: SqlMemoryStore) -> None:
    for name in ("b/2", "a/1", "b/1", "b_", "c"):
        made(journal, name)

    def names(prefix: str, after: str, size: int) -> list[str]:
        return [memory.name for memory in journal.list_by_name(prefix=prefix, after=after, size=size)]

    assert names("", "", 10) == ["a/1", "b/1", "b/2", "b_", "c"]
    assert names("b/", "b/1", 10) == ["b/2"]
    assert names("", "a/1", 2) == ["b/1", "b/2"]


def test_a_flipped_bit_in_a_pattern_is_found_and_named(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        memory = made(SqlMemoryStore(database))
        SqlMemoryStore(database).commit([stored(memory, 1, some(1, 100))])
    path = tmp_path / "attractor.db"
    content = bytearray(path.read_bytes())
    content[content.index(some(1, 100)[50].tobytes())] ^= 1
    path.write_bytes(content)
    with (
        closing(SqliteDatabase(tmp_path)) as database,
        pytest.raises(StoreDamaged, match="a page has another checksum"),
    ):
        SqlMemoryStore(database).page(memory.id, 0)


def test_patterns_that_changed_before_they_came_to_their_page_are_found_and_named(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        memory = made(SqlMemoryStore(database))
        SqlMemoryStore(database).commit([stored(memory, 1, some(1))])
        with database.transaction() as cursor:
            cursor.execute("UPDATE entries SET vectors = ?", (some(2).tobytes(),))
        with pytest.raises(StoreDamaged, match=f"memory {memory.id}, page 0, version 1"):
            SqlMemoryStore(database).page(memory.id, 0)


def test_a_flipped_bit_in_the_weights_of_a_row_leaves_the_page_to_its_patterns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = np.random.default_rng(0).bytes(100_000)
    with closing(SqliteDatabase(tmp_path)) as store:
        journal = SqlMemoryStore(store)
        memory = made(journal)
        change = stored(memory, 1, some(1))
        journal.commit([replace(change, images=[Image(page=0, version=1, content=content)])])
    path = tmp_path / "attractor.db"
    written = bytearray(path.read_bytes())
    written[written.index(content[50_000:50_100])] ^= 1
    path.write_bytes(written)
    with closing(SqliteDatabase(tmp_path)) as store:
        found = SqlMemoryStore(store).find("a/b")
        assert found is not None
        assert found.pages == [PageRow(number=0, patterns=2, image=True, entries=False)]
        page = SqlMemoryStore(store).page(memory.id, 0)
    assert page.image is None
    np.testing.assert_array_equal(page.entries[0].values, some(1))
    assert "memory 'a/b', page 0 is written anew" in caplog.text


def test_a_flipped_bit_in_a_name_hides_no_memory(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        made(SqlMemoryStore(database))
    path = tmp_path / "attractor.db"
    path.write_bytes(path.read_bytes().replace(b"a/b", b"a/c"))
    with pytest.raises(StoreDamaged, match=r"attractor\.db is damaged"), closing(SqliteDatabase(tmp_path)) as database:
        SqlMemoryStore(database).find("a/b")


def test_a_log_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    files = _files_after_commits(tmp_path / "live")
    log = files["attractor.db-wal"]
    torn = {**files, "attractor.db-wal": log[: len(log) - 4096]}
    for name, content in torn.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"ends at commit \d+, and commit \d+ was made"):
        SqliteDatabase(tmp_path)


def test_a_store_as_it_was_at_a_power_cut_opens_with_all_that_was_committed(tmp_path: Path) -> None:
    for name, content in _files_after_commits(tmp_path / "live").items():
        (tmp_path / name).write_bytes(content)
    with closing(SqliteDatabase(tmp_path)) as database:
        found = SqlMemoryStore(database).find("a/b")
    assert found is not None
    assert found.version == 3


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path).close()
    path = tmp_path / "attractor.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreDamaged, match=r"format 99; this version reads up to \d"):
        SqliteDatabase(tmp_path)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attractor.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreDamaged, match="is damaged"):
        SqliteDatabase(tmp_path)


def test_two_shards_share_a_store(backend_uri: str) -> None:
    with opened(backend_uri) as one, opened(backend_uri) as other:
        memory = made(SqlMemoryStore(one))
        assert made(SqlMemoryStore(other)).id == memory.id
        SqlMemoryStore(one).commit([stored(memory, 1, some(1))])
        np.testing.assert_array_equal(SqlMemoryStore(other).page(memory.id, 0).entries[0].values, some(1))


def test_an_owner_that_was_replaced_can_change_nothing(backend_uri: str) -> None:
    with opened(backend_uri) as one, opened(backend_uri) as other:
        paused = SqlMemoryStore(one)
        memory = made(paused)
        successor = SqlMemoryStore(other)
        for change in (
            lambda: paused.commit([stored(memory, 1, some(1))]),
            lambda: paused.delete(memory.id),
            lambda: made(paused, "new"),
        ):
            with pytest.raises(OwnerChanged, match="lost a group"):
                change()
        found = successor.find("a/b")
        assert found is not None
        assert found.version == 0
        assert successor.find("new") is None


WRITER = """
import sys
import numpy as np
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.backends.opening import open_store
from attractor_server.memories.records import Change, Entry, NewMemory
from attractor_server.memories.settings import MemorySettings
store_uri = sys.argv[1]
journal = SqlMemoryStore(open_store(store_uri))
new = NewMemory(name="a/b", model="m", model_digest="d", settings=MemorySettings(page_patterns=4))
memory = journal.create([new])[0]
version = memory.version
while True:
    version += 1
    entries = [
        Entry(page=page, version=version, written=version, values=np.full((1, 64), version, np.float32))
        for page in (0, 1)
    ]
    journal.commit([Change(memory=memory.id, version=version, patterns=0, pages={0: 0, 1: 0}, entries=entries)])
    print(version, flush=True)
"""


def test_nothing_acknowledged_is_lost_to_kill_9(store_uri: str) -> None:
    acknowledged = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, store_uri], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(50):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
    with opened(store_uri) as store:
        found = SqlMemoryStore(store).find("a/b")
        assert found is not None
        versions = [[entry.version for entry in SqlMemoryStore(store).page(found.id, page).entries] for page in (0, 1)]
    assert found.version >= acknowledged
    assert versions[0] == versions[1] == list(range(1, found.version + 1))


def _files_after_commits(folder: Path) -> Mapping[str, bytes]:
    """The files of a store that is still open, as a power cut would leave them."""
    with closing(SqliteDatabase(folder)) as store:
        journal = SqlMemoryStore(store)
        memory = made(journal)
        for version in (1, 2, 3):
            journal.commit([stored(memory, version, some(version))])
        return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}
