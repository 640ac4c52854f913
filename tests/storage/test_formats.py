"""Stores of older formats are brought up to date, with everything in them."""

import shutil
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import psycopg
import pytest

from attractor_server.errors import NumberReused, StoreDamaged
from attractor_server.memories.items import ItemQuery
from attractor_server.memories.memory import KNOWN_CLIENTS
from attractor_server.memories.records import (
    NOTHING,
    Call,
    Change,
    Done,
    Entry,
    Floats,
    Image,
    Item,
    NewMemory,
    PageRow,
    WriteAck,
)
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.backends.sqlite import FILE, SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import folder_of
from attractor_server.storage.database import Store
from attractor_server.storage.memory_store import SqlMemoryStore

GOLDEN = Path(__file__).parent / "golden"
"""A file of each format, written by the version of that time"""


def values(patterns: int) -> Floats:
    return np.arange(3 * patterns, dtype=np.float32).reshape(patterns, 3) / np.float32(8)


def opened(folder: Path, format_: int) -> SqliteDatabase:
    shutil.copy(GOLDEN / f"format-{format_}.db", folder / FILE)
    return SqliteDatabase(folder)


def test_format_1_is_read_with_pages_images_entries_and_answers(tmp_path: Path) -> None:
    with closing(opened(tmp_path, 1)) as database:
        journal = SqlMemoryStore(database)
        grown, streamed, empty = (journal.find(f"golden/{name}") for name in ("grown", "streamed", "empty"))
        assert grown is not None
        assert streamed is not None
        assert empty is not None
        assert grown.settings == MemorySettings(page_patterns=4)
        assert streamed.settings == MemorySettings(write="stream", when_full="forget", page_patterns=2)
        assert (grown.version, grown.patterns, empty.version) == (2, 6, 0)
        assert grown.pages == [
            PageRow(number=0, patterns=4, image=True, entries=False),
            PageRow(number=1, patterns=2, image=False, entries=True),
        ]
        assert grown.told == [
            WriteAck(client="c", sequence=1, version=1, patterns=4),
            WriteAck(client="c", sequence=2, version=2, patterns=6),
        ]
        sealed = journal.page(grown.id, 0, all_entries=True)
        assert sealed.image == Image(page=0, version=1, content=bytes(range(48)))
        np.testing.assert_array_equal(sealed.entries[0].values, values(4))
        np.testing.assert_array_equal(journal.page(grown.id, 1).entries[0].values, values(2))
        np.testing.assert_array_equal(journal.page(streamed.id, 0).entries[0].values, values(1))


def test_names_without_a_slash_have_an_index_also_in_a_store_of_before_there_was_one(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as database:
        new = [
            NewMemory(name=name, model="m", model_digest="sha256:1", settings=MemorySettings(page_patterns=4))
            for name in ("a/b", "plain", "z/y", "zz")
        ]
        SqlMemoryStore(database).create(new)
    with closing(apsw.Connection(str(tmp_path / FILE))) as connection:
        connection.execute("DROP INDEX flat_names")
    with closing(SqliteDatabase(tmp_path)) as database:
        plans = list[str]()
        database._connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda trace: plans.append(trace["sql"]))
        found = SqlMemoryStore(database).list_by_name(prefix="", after="", size=10, flat=True)
        assert [memory.name for memory in found] == ["plain", "zz"]
        (statement,) = [plan for plan in plans if "NOT LIKE" in plan]
        plan = database._connection.execute(f"EXPLAIN QUERY PLAN {statement}", ("", "", 0, "", 10)).fetchall()
        assert "flat_names" in str(plan)


def test_a_store_of_format_1_goes_on_and_gives_no_number_twice(tmp_path: Path) -> None:
    with closing(opened(tmp_path, 1)) as database:
        journal = SqlMemoryStore(database)
        empty = journal.find("golden/empty")
        assert empty is not None
        journal.delete(empty.id)
        new = NewMemory(name="new", model="tiny", model_digest="sha256:1", settings=MemorySettings(page_patterns=4))
        made = journal.create([new])[0]
        assert made.id > empty.id
        entry = Entry(page=0, version=1, written=1, values=values(1))
        journal.commit([Change(memory=made.id, version=1, patterns=1, pages={0: 1}, entries=[entry])])
    with closing(SqliteDatabase(tmp_path)) as database:
        assert len(SqlMemoryStore(database).list_by_name(prefix="", after="", size=9)) == 3


def _opened(golden: Path) -> apsw.Connection:
    """Open a golden file as one that never changes: its log would lie beside it in the repository."""
    return apsw.Connection(f"{golden.as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


@pytest.fixture
def of_format_2(store_uri: str) -> str:
    """A store with calls of each kind, and stores of 1,101 clients, as version 0.1.0 left it."""
    golden = GOLDEN / "format-2.db"
    if store_uri.startswith("sqlite:"):
        folder_of(store_uri).mkdir()
        shutil.copy(golden, folder_of(store_uri) / FILE)
        return store_uri
    with psycopg.connect(store_uri, autocommit=True) as connection, closing(_opened(golden)) as rows:
        connection.execute((GOLDEN / "format-2-postgresql.sql").read_bytes())
        connection.execute("TRUNCATE counters; CREATE TABLE schema_version (version BIGINT NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (2)")
        for table in ("memories", "contents", "pages", "entries", "answers", "counters"):
            cursor = rows.execute(f"SELECT * FROM {table}")
            marks = ", ".join(["%s"] * len(cursor.get_description()))
            connection.cursor().executemany(f"INSERT INTO {table} VALUES ({marks})", list(cursor))
    return store_uri


def call(kind: str, sequence: int, *, client: str = "c", memory: str = "golden/kept") -> Call:
    return Call(client, sequence, kind, memory, digest=7)


def test_calls_of_format_2_are_known_when_they_are_repeated(of_format_2: str) -> None:
    with closing(store_of(of_format_2)) as store:
        journal = SqlMemoryStore(store)
        assert journal.find_call(call("TakeSnapshot", 1)) == Done(1, 2)
        assert journal.find_call(call("Restore", 2)) == Done(2, 2)
        assert journal.find_call(call("Fork", 3)) == Done(2, 2)
        assert journal.find_call(call("Delete", 4, client="c d", memory="golden/gone")) == Done(0, 0)
        assert journal.find_call(call("Restore", 5)) is None
        with pytest.raises(NumberReused, match="Restore of 'another'"):
            journal.find_call(call("Restore", 2, memory="another"))
        kept = journal.find("golden/kept")
        assert kept is not None
        assert journal.restore(kept.id, "one", call=call("Restore", 5)) == Done(1103, 2)
    with closing(store_of(of_format_2)) as store:
        assert SqlMemoryStore(store).find_call(call("Restore", 5)) == Done(1103, 2)


def test_stores_of_format_2_are_known_when_they_are_repeated_and_clients_long_silent_are_forgotten(
    of_format_2: str,
) -> None:
    with closing(store_of(of_format_2)) as store:
        journal = SqlMemoryStore(store)
        kept = journal.find("golden/kept")
        assert kept is not None
        clients = [f"short {at}" for at in range(1100)]
        assert [one.client for one in kept.told] == clients[-64:]
        assert kept.former == [(client, 1) for client in clients[-KNOWN_CLIENTS:-64]]
        assert journal.find_acks(kept.id, clients[-65]) == [
            WriteAck(client=clients[-65], sequence=1, version=1038, patterns=2)
        ]
        assert journal.find_acks(kept.id, "c") == []


def test_memories_of_format_3_see_vectors_as_their_model_does(tmp_path: Path) -> None:
    with closing(opened(tmp_path, 3)) as database:
        journal = SqlMemoryStore(database)
        grown, streamed = (journal.find(f"golden/{name}") for name in ("grown", "streamed"))
        assert grown is not None
        assert streamed is not None
        assert grown.settings == MemorySettings(page_patterns=4, metric="model")
        assert streamed.settings == MemorySettings(
            write="stream", when_full="forget", page_patterns=2, retain="open_page", metric="model"
        )
        assert (grown.version, grown.patterns) == (2, 6)
        stored = journal.page(grown.id, 0, all_entries=True)
        assert stored.image == Image(page=0, version=1, content=bytes(range(48)))
        np.testing.assert_array_equal(stored.entries[0].values, values(4))
        assert journal.find_call(call("TakeSnapshot", 1, memory="golden/grown")) == Done(1, 4)
        assert journal.restore(grown.id, "one") == Done(3, 4)
        new = NewMemory(
            name="new", model="tiny", model_digest="sha256:1", settings=MemorySettings(page_patterns=4, metric="own")
        )
        assert journal.create([new])[0].settings.metric == "own"


def test_kept_patterns_take_part_in_the_answers_of_memories_of_format_4(tmp_path: Path) -> None:
    with closing(opened(tmp_path, 4)) as database:
        journal = SqlMemoryStore(database)
        grown = journal.find("golden/grown")
        assert grown is not None
        assert grown.settings == MemorySettings(page_patterns=4, metric="own", recall="posterior")
        assert (grown.version, grown.patterns) == (2, 6)
        entry = journal.page(grown.id, 0, all_entries=True).entries[0]
        np.testing.assert_array_equal(entry.values, values(4))
        assert [item.id for item in entry.items] == ["i0", "i1", "i2", "i3"]
        assert journal.find_call(call("TakeSnapshot", 1, memory="golden/grown")) == Done(1, 4)
        settings = MemorySettings(page_patterns=4, recall="network")
        new = NewMemory(name="new", model="tiny", model_digest="sha256:1", settings=settings)
        assert journal.create([new])[0].settings == settings


@pytest.fixture
def of_format_4(store_uri: str) -> str:
    """A store with items, a snapshot, and a fork of a fork that was deleted."""
    golden = GOLDEN / "format-4-items.db"
    if store_uri.startswith("sqlite:"):
        folder_of(store_uri).mkdir()
        shutil.copy(golden, folder_of(store_uri) / FILE)
        return store_uri
    with psycopg.connect(store_uri, autocommit=True) as connection, closing(_opened(golden)) as rows:
        connection.execute((GOLDEN / "format-4-postgresql.sql").read_bytes())
        connection.execute("TRUNCATE counters, groups; CREATE TABLE schema_version (version BIGINT NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (4)")
        for table in ("memories", "contents", "pages", "images", "entries", "answers", "groups", "counters"):
            cursor = rows.execute(f"SELECT * FROM {table}")
            marks = ", ".join(["%s"] * len(cursor.get_description()))
            connection.cursor().executemany(f"INSERT INTO {table} VALUES ({marks})", list(cursor))
        for table in ("memories", "contents"):
            connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 100)".encode())
    return store_uri


def test_items_of_format_4_are_found_by_id_in_memories_snapshots_and_forks_of_forks(of_format_4: str) -> None:
    with closing(store_of(of_format_4)) as store:
        journal = SqlMemoryStore(store)
        for name in ("golden/grown", "golden/last", "golden/grown@one"):
            found = journal.load_snapshot("golden/grown", "one") if "@" in name else journal.find(name)
            assert found is not None
            kept = journal.find_items(found.id, ["a", "c"])
            expected = ["a", "a", "c"] if name == "golden/grown" else ["a", "a"]
            assert [one.item.id for one in kept] == expected
            assert kept[0].item == Item(id="a", payload=b'{"n":1}', json=True)
            np.testing.assert_array_equal([one.values for one in kept[:2]], values(4)[[0, 3]])
        plain = journal.find("golden/plain")
        assert plain is not None
        part = journal.list_items(plain.id, ItemQuery(size=9), None)
        assert [one.item for one in part.items] == [NOTHING, NOTHING]
        last = journal.find("golden/last")
        assert last is not None
        entry = Entry(page=0, version=2, written=2, values=values(1), items=[Item(id="new")])
        journal.commit([Change(memory=last.id, version=2, patterns=5, pages={0: 5}, entries=[entry])])
        assert [one.item.id for one in journal.find_items(last.id, ["a", "new"])] == ["a", "a", "new"]
        grown = journal.find("golden/grown")
        assert grown is not None
        assert journal.find_items(grown.id, ["new"]) == []


@pytest.fixture
def of_format_5(store_uri: str) -> str:
    """A store with items, with and without patterns, a snapshot and a fork."""
    golden = GOLDEN / "format-5.db"
    if store_uri.startswith("sqlite:"):
        folder_of(store_uri).mkdir()
        shutil.copy(golden, folder_of(store_uri) / FILE)
        return store_uri
    with psycopg.connect(store_uri, autocommit=True) as connection, closing(_opened(golden)) as rows:
        connection.execute((GOLDEN / "format-5-postgresql.sql").read_bytes())
        connection.execute("TRUNCATE counters, groups; CREATE TABLE schema_version (version BIGINT NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (5)")
        for table in ("memories", "contents", "pages", "entries", "items", "groups", "counters"):
            cursor = rows.execute(f"SELECT * FROM {table}")
            marks = ", ".join(["%s"] * len(cursor.get_description()))
            connection.cursor().executemany(f"INSERT INTO {table} VALUES ({marks})", list(cursor))
        for table in ("memories", "contents"):
            connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 100)".encode())
    return store_uri


def test_items_of_format_5_stay_and_new_ones_are_found_by_their_words(of_format_5: str) -> None:
    with closing(store_of(of_format_5)) as store:
        journal = SqlMemoryStore(store)
        grown, fork = journal.find("golden/grown"), journal.find("golden/fork")
        assert grown is not None
        assert fork is not None
        assert [one.item.id for one in journal.find_items(grown.id, ["b", "e", "loose"])] == ["b", "e", "loose"]
        assert journal.grade_texts(grown.id, "anything") == {}
        item = Item(id="new", text="The lighthouse keeper")
        entry = Entry(page=0, version=2, written=2, values=values(1), items=[item])
        journal.commit([Change(memory=fork.id, version=2, patterns=5, pages={0: 5}, entries=[entry])])
    with closing(store_of(of_format_5)) as store:
        journal = SqlMemoryStore(store)
        (place,) = journal.grade_texts(fork.id, "lighthouses keeper")
        assert [one.item for one in journal.find_at(fork.id, [place])] == [item]
        assert journal.grade_texts(grown.id, "keeper") == {}


def store_of(store_uri: str) -> Store:
    return open_store(store_uri)


def test_damage_in_an_old_store_stays_seen(tmp_path: Path) -> None:
    content = bytearray((GOLDEN / "format-1.db").read_bytes())
    content[content.index(values(4).tobytes())] ^= 1
    (tmp_path / FILE).write_bytes(content)
    with closing(SqliteDatabase(tmp_path)) as database:
        journal = SqlMemoryStore(database)
        grown = journal.find("golden/grown")
        assert grown is not None
        with pytest.raises(StoreDamaged, match="another checksum"):
            journal.page(grown.id, 0, all_entries=True)
        assert journal.page(grown.id, 1).entries
