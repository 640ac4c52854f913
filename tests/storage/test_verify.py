"""Damage in a store is found and named, by the commands `verify` and `backup`, on real files."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.support.postgresql import PostgresServer
from tests.support.stored_memories import made, some
from tests.support.stored_memories import store as store_pattern

from attractor_server.cli.main import main
from attractor_server.memories.records import Change, Entry, Image, Item, NewMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.backends.opening import inspect_store, open_store
from attractor_server.storage.backends.sqlite import FILE, SqliteDatabase
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.backends.sqlite_files import network_file_system
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.verify import find_faults


def values(seed: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.random.default_rng(seed).standard_normal((2, 400), dtype=np.float32)


def weights(seed: int) -> bytes:
    return np.random.default_rng(100 + seed).bytes(4000)


def filled(backend_uri: str) -> None:
    """Memories `m/0` to `m/3` with two pages each, the first one sealed; a fork, and a snapshot."""
    store = open_store(backend_uri)
    with closing(store):
        journal = SqlMemoryStore(store)
        settings, memory = MemorySettings(page_patterns=2), 0
        for number in range(4):
            new = NewMemory(name=f"m/{number}", model="m", model_digest="sha256:1", settings=settings)
            memory = journal.create([new])[0].id
            for page in (0, 1):
                version = page + 1
                entry = Entry(
                    page=page,
                    version=version,
                    written=version,
                    values=values(10 * number + page),
                    items=[Item(id="one", payload=b"paid", text="two words"), Item()],
                )
                images = [Image(page=0, version=1, content=weights(number))] if page == 0 else []
                journal.commit(
                    [
                        Change(
                            memory=memory,
                            version=version,
                            patterns=2 * version,
                            pages={page: 2},
                            entries=[entry],
                            images=images,
                        )
                    ]
                )
        journal.fork(memory, "fork")
        journal.snapshot(memory, "before")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    filled(uri_of(tmp_path / "data"))
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def verified(backend_uri: str, *arguments: str) -> Result:
    return run("verify", "--backend-store-uri", backend_uri, *arguments)


def flip(folder: Path, found: bytes, at: int = 7) -> None:
    content = bytearray((folder / FILE).read_bytes())
    content[content.index(found[:200]) + at] ^= 1
    (folder / FILE).write_bytes(content)


@contextmanager
def sql(folder: Path) -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(str(folder / FILE))) as connection:
        yield connection


def test_a_store_that_is_well_is_said_to_be(backend_uri: str) -> None:
    filled(backend_uri)
    result = verified(backend_uri)
    assert result.exit_code == 0, result.output
    assert "6 memories, 12 pages, 8 entries, 4 images; nothing wrong" in result.output


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        (values(10).tobytes(), "memory 'm/1', page 0: version 1: its patterns have another checksum"),
        (values(21).tobytes(), "memory 'm/2', page 1: version 2: its patterns have another checksum"),
        (weights(0), "memory 'm/0', page 0: the image of version 1 has another checksum"),
        (
            weights(3),
            "memory 'fork', page 0, memory 'm/3', page 0, memory 'm/3@before', page 0: the image of version 1",
        ),
    ],
)
def test_a_flipped_bit_is_named_with_its_memory_and_page(folder: Path, damaged: bytes, named: str) -> None:
    flip(folder, damaged)
    result = verified(uri_of(folder))
    assert result.exit_code == 1
    assert named in result.output
    assert "of the file: it is not as it was written" in result.output
    assert "; 2 wrong" in result.output


def test_every_damaged_page_is_named(folder: Path) -> None:
    for number in range(3):
        flip(folder, weights(number))
        flip(folder, values(10 * number + 1).tobytes())
    result = verified(uri_of(folder))
    assert result.exit_code == 1
    for number in range(3):
        for page in (0, 1):
            assert f"memory 'm/{number}', page {page}: " in result.output
    pages = result.output.count("of the file: it is not as it was written")
    assert 1 <= pages <= 6
    assert f"; {6 + pages} wrong" in result.output


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE memories SET patterns = 9 WHERE name = 'm/1'", "memory 'm/1': it counts 9 patterns, and its pages 4"),
        (
            "UPDATE pages SET patterns = 1 WHERE memory = 1 AND number = 1",
            "memory 'm/0', page 1: it counts 1 patterns, and its entries 2",
        ),
        ("DELETE FROM pages WHERE memory = 2 AND number = 1", "contents 4: no memory has it"),
        ("DELETE FROM contents WHERE id = 4", "memory 'm/1', page 1: what was in it is not there"),
        (
            "UPDATE memories SET version = 1 WHERE id = 1",
            "page 1: it has an entry of version 2, and its memory is at 1",
        ),
        ("DELETE FROM texts WHERE content = 2", "memory 'm/0', page 1: its items are not found by the words of their"),
        ("UPDATE pages SET shared = 0 WHERE memory = 4", "pages share it, of which not all are marked so"),
        ("UPDATE memories SET retain = 'some' WHERE id = 3", "memory 'm/2': retain: saw 'some'"),
        (
            "UPDATE entries SET items = x'' WHERE content = 1",
            "memory 'm/0', page 0: version 1: its patterns have another",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_named(folder: Path, statement: str, named: str) -> None:
    with sql(folder) as connection:
        connection.execute(statement)
    result = verified(uri_of(folder))
    assert result.exit_code == 1
    assert named in result.output


def test_a_flipped_bit_anywhere_is_an_error_or_nothing_that_is_kept(folder: Path) -> None:
    """A bit of free space may flip unseen; whatever is told, the command ends in its own words."""
    whole = (folder / FILE).read_bytes()
    choose, found = random.Random(0), 0
    for _ in range(40):
        content = bytearray(whole)
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        (folder / FILE).write_bytes(content)
        result = verified(uri_of(folder))
        assert result.exit_code in (0, 1, 2), result.exception
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        found += result.exit_code != 0
    assert found > 10


def test_a_log_that_lost_its_end_is_told(folder: Path) -> None:
    beacon = folder / f"{FILE}-beacon"
    before = (folder / FILE).read_bytes()
    with closing(SqliteDatabase(folder)) as store:
        SqlMemoryStore(store)
    (folder / FILE).write_bytes(before)
    assert beacon.exists()
    result = verified(uri_of(folder))
    assert result.exit_code == 1
    assert "it ends at commit" in result.output


def test_a_change_of_many_pages_is_well_wherever_it_is_cut_short(tmp_path: Path) -> None:
    def problems() -> list[str]:
        with inspect_store(uri_of(tmp_path)) as view:
            return [str(fault) for fault in find_faults(view, Counter())]

    with closing(SqliteDatabase(tmp_path)) as store:
        journal = SqlMemoryStore(store)
        memory = made(journal, "a")
        for number in range(4):
            store_pattern(journal, memory.id, number + 1, page=number)
        draft = journal.begin_import(replace(memory, version=4, patterns=4))
        entry = Entry(page=1, version=5, written=5, values=some(5))
        image = Image(page=1, version=5, content=b"new")
        change = Change(memory=draft, version=5, patterns=4, pages={1: 1}, entries=[entry], images=[image])
        journal.add_pages(change)
        assert problems() == []
        store_pattern(journal, memory.id, 6, page=4)
        journal.end_change(draft, Change(memory=memory.id, version=7, patterns=4, dropped=[4]))
        assert problems() == []
        assert list(journal.forget_leftovers())
        assert problems() == []


def test_where_there_is_no_store_that_is_said(tmp_path: Path) -> None:
    result = verified(uri_of(tmp_path))
    assert result.exit_code == 2
    assert "where no memories are kept; expected a folder with attractor.db" in result.output


def test_a_store_can_be_verified_and_copied_while_it_is_written(folder: Path, tmp_path: Path) -> None:
    with closing(SqliteDatabase(folder)) as store:
        journal = SqlMemoryStore(store)
        journal.create([NewMemory(name="new", model="m", model_digest="d", settings=MemorySettings(page_patterns=2))])
        assert "7 memories" in verified(uri_of(folder)).output
        assert run("backup", str(tmp_path / "copy"), "--data-dir", str(folder)).exit_code == 0
        assert journal.find("new") is not None
    with closing(SqliteDatabase(tmp_path / "copy")) as copy:
        assert SqlMemoryStore(copy).find("new") is not None
    assert verified(uri_of(tmp_path / "copy")).exit_code == 0


def test_a_copy_of_a_damaged_store_is_said_to_be_damaged(folder: Path, tmp_path: Path) -> None:
    flip(folder, weights(0))
    result = run("backup", str(tmp_path / "copy"), "--data-dir", str(folder))
    assert result.exit_code == 1
    assert "memory 'm/0', page 0" in result.output


def test_a_copy_goes_over_nothing(folder: Path) -> None:
    result = run("backup", str(folder), "--data-dir", str(folder))
    assert result.exit_code == 2
    assert "where something is; expected the name of a new folder" in result.output


def test_a_copy_of_a_database_is_left_to_its_own_program(postgres: PostgresServer) -> None:
    result = run("backup", "/tmp/copy.dump", "--backend-store-uri", postgres.uri)
    assert result.exit_code == 2
    assert "pg_dump --format=custom --file='/tmp/copy.dump' 'postgresql://" in result.output


def test_a_database_without_memories_is_told(postgres: PostgresServer) -> None:
    result = verified(postgres.store())
    assert result.exit_code == 2
    assert "where no memories are kept" in result.output


@pytest.mark.parametrize(
    ("folder_of", "kind"),
    [(lambda path: path / "far", "nfs4"), (lambda path: path / "far" / "deep er" / "x", "cifs"), (Path, "")],
)
def test_a_folder_on_a_network_file_system_is_known(
    tmp_path: Path, folder_of: Callable[[Path], Path], kind: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"23 22 0:5 / {tmp_path}/far rw - nfs4 host:/export rw\n"
        f"24 23 0:6 / {tmp_path}/far/deep\\040er rw shared:1 - cifs //host/share rw\n"
    )
    assert network_file_system(folder_of(tmp_path), mounts) == kind
