"""What holds for every backend: addresses, locks, and what the commands say of a store."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from attractor_server.config import load_settings
from attractor_server.errors import SettingsError, StoreFailed
from attractor_server.storage.backends.opening import BACKENDS, backend_of, inspect_store, open_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.database import Store, number


@pytest.fixture
def store(backend_uri: str) -> Iterator[Store]:
    with closing(open_store(backend_uri)) as opened:
        yield opened


def test_an_address_with_a_scheme_of_its_own_is_a_setting(backend_uri: str) -> None:
    assert load_settings({"backend_store_uri": backend_uri}).store_uri == backend_uri
    assert backend_of(backend_uri).label(backend_uri)


def test_a_folder_is_the_store_where_none_is_named(tmp_path: Path) -> None:
    assert load_settings({"data_dir": str(tmp_path)}).store_uri == uri_of(tmp_path)


def test_a_folder_with_a_relative_path_is_refused_since_shards_have_another_one() -> None:
    with pytest.raises(SettingsError, match=r"backend_store_uri: saw 'sqlite:data'; expected an absolute path"):
        load_settings({"backend_store_uri": "sqlite:data"})


@pytest.mark.parametrize("uri", ["mysql://user:hidden@host/db", "user:hidden@host", "SQLITE:hidden", "hidden"])
def test_an_address_of_no_backend_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(SettingsError, match="does not begin with postgresql://") as refused:
        load_settings({"backend_store_uri": uri})
    assert "hidden" not in str(refused.value)


def test_each_scheme_stands_before_a_colon() -> None:
    assert all(scheme.isidentifier() for scheme in BACKENDS)


def test_a_transaction_that_fails_changes_nothing(store: Store) -> None:
    with pytest.raises(StoreFailed, match="changed nothing"), store.transaction() as cursor:
        cursor.execute("INSERT INTO counters VALUES ('mine', 1)")
        cursor.execute("INSERT INTO counters VALUES ('mine', 2)").fetchall()
    with store.read() as cursor:
        assert number(cursor.execute("SELECT count(*) FROM counters WHERE name = 'mine'")) == 0


def test_what_is_committed_is_seen_by_all_and_purging_takes_nothing_of_it(store: Store, backend_uri: str) -> None:
    with store.transaction() as cursor:
        cursor.executemany("INSERT INTO counters VALUES (?, ?)", [("one", 1), ("two", 2), ("three", 3)])
    store.purge()
    statement = "SELECT value FROM counters WHERE name IN ('one', 'two', 'three') ORDER BY value"
    with closing(open_store(backend_uri)) as other, other.read() as cursor:
        assert [value for (value,) in cursor.execute(statement).fetchall()] == [1, 2, 3]
    with inspect_store(backend_uri) as view:
        assert [value for (value,) in view.cursor.execute(statement)] == [1, 2, 3]
        assert not view.faults


def test_a_store_that_is_not_there_is_not_made_by_who_reads_it(backend_uri: str) -> None:
    for _ in range(2):
        with pytest.raises(SettingsError, match="where no memories are kept"), inspect_store(backend_uri):
            pass


def test_one_server_at_a_time_has_a_store(backend_uri: str) -> None:
    backend = backend_of(backend_uri)
    with backend.lock(backend_uri):
        with pytest.raises(SettingsError), backend.lock(backend_uri):
            pass
        with pytest.raises(SettingsError), backend.lock(backend_uri):
            pass
    with backend.lock(backend_uri):
        pass


def test_a_store_that_is_well_is_not_said_to_be_wrong(store: Store, backend_uri: str) -> None:
    findings = list(backend_of(backend_uri).examine(backend_uri))
    assert findings
    assert all(finding.level != "wrong" for finding in findings)


def test_a_copy_is_a_store_in_a_folder_or_is_refused_in_words(store: Store, backend_uri: str, tmp_path: Path) -> None:
    with store.transaction() as cursor:
        cursor.execute("INSERT INTO counters VALUES ('mine', 7)")
    target, refusal = tmp_path / "copy", ""
    try:
        assert not backend_of(backend_uri).copy(backend_uri, target, None)
    except SettingsError as error:
        refusal = error.message
    if refusal:
        assert "copies" in refusal
        assert not target.exists()
        return
    with closing(open_store(uri_of(target))) as copy, copy.read() as cursor:
        assert number(cursor.execute("SELECT value FROM counters WHERE name = 'mine'")) == 7
