"""A store is moved from a folder into PostgreSQL and back: every row, and what is given out next."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from tests.support.postgresql import PostgresServer
from tests.support.stored_memories import made, some
from tests.support.stored_memories import store as store_pattern

from attractor_server.cli.main import main
from attractor_server.memories.records import Call, Change, Entry, Item, WriteAck
from attractor_server.storage import moving
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.opening import backend_of, open_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.memory_store import SqlMemoryStore


def rows(uri: str) -> Mapping[str, Sequence[Any]]:
    """All that is moved, by table."""
    with closing(open_store(uri)) as store, store.read() as cursor:
        found = {}
        for table in moving._tables():
            every = cursor.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}").fetchall()
            found[table.name] = sorted(map(tuple, every), key=repr)
        return found


def filled(uri: str) -> None:
    """Memories with pages, images, items, answers and calls; a fork, a snapshot, and one that is gone."""
    with closing(open_store(uri)) as store:
        journal = SqlMemoryStore(store)
        memory = made(journal, "users/ada", ttl_s=3600.0).id
        for version in (1, 2, 3):
            store_pattern(journal, memory, version, page=version - 1, image=b"weights" * version)
        item = Item(id="\u00e9", payload=b"\x00\xff", text="zwei Wege")
        entry = Entry(page=0, version=1, written=1, values=some(9), items=[item])
        ack = WriteAck(client="c", sequence=7, version=1, patterns=1, erases=False, digest=5)
        other = made(journal, "other").id
        change = Change(memory=other, version=1, patterns=1, pages={0: 1}, entries=[entry], images=[], told=[ack])
        journal.commit([change])
        call = Call(client="c", sequence=8, kind="Snapshot", memory="users/ada", digest=3)
        journal.snapshot(memory, "before", call=call)
        journal.fork(memory, "fork")
        last = made(journal, "z").id
        journal.fork(last, "of-one-that-is-gone")
        journal.delete(last)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_all_that_is_kept_goes_to_postgresql_and_back(postgres: PostgresServer, tmp_path: Path) -> None:
    folder, database, back = tmp_path / "data", postgres.store(), tmp_path / "back"
    filled(uri_of(folder))
    before = rows(uri_of(folder))
    assert all(before[name] for name in before.keys() - {"leavings"})
    said = run("move", database, "--data-dir", str(folder))
    assert "5 memories" in said
    assert "nothing wrong there" in said
    assert rows(database) == before
    run("move", str(back), "--backend-store-uri", database)
    assert rows(uri_of(back)) == rows(uri_of(folder)) == before
    news = set()
    for uri in (uri_of(folder), database, uri_of(back)):  # what each gives out next was given to nobody
        with closing(open_store(uri)) as store:
            news.add(made(SqlMemoryStore(store), "new").id)
    assert len(news) == 1


def test_a_store_with_something_in_it_is_no_target_and_stays_as_it_is(postgres: PostgresServer, tmp_path: Path) -> None:
    database, folder = postgres.store(), tmp_path / "data"
    for uri in (database, uri_of(folder)):
        filled(uri)
    before = rows(database)
    for target, words in ((database, "expected an empty store"), (str(folder), "expected another store")):
        result = CliRunner().invoke(main, ["move", target, "--data-dir", str(folder)])
        assert result.exit_code == 2
        assert "TARGET: saw" in result.stderr
        assert words in result.stderr
    assert rows(database) == before


def test_neither_store_may_be_a_running_servers(postgres: PostgresServer, tmp_path: Path) -> None:
    folder, database = tmp_path / "data", postgres.store()
    filled(uri_of(folder))
    for held in (uri_of(folder), database):
        with backend_of(held).lock(held):
            result = CliRunner().invoke(main, ["move", database, "--data-dir", str(folder)])
            assert result.exit_code == 2
            assert "server" in result.stderr
            assert "stop that one" in result.stderr


def test_large_pages_and_models_go_along_where_that_is_asked_for(postgres: PostgresServer, tmp_path: Path) -> None:
    folder, there = tmp_path / "data", tmp_path / "there"
    here = Artifacts(tmp_path / "here")
    with closing(open_store(uri_of(folder))) as store:
        journal = SqlMemoryStore(store, artifacts=here)
        store_pattern(journal, made(journal, "m").id, 1, image=b"w" * (1 << 20))
    where = ("--data-dir", str(folder), "--artifact-store", str(tmp_path / "here"))
    assert "1 images" in run("move", postgres.store(), *where, "--target-artifact-store", str(there))
    (location,) = [path.relative_to(there) for path in there.rglob("*") if path.is_file()]
    assert Artifacts(there).get(str(location)) == b"w" * (1 << 20)
