"""A store whose disk is full."""

from contextlib import closing
from pathlib import Path

import pytest

from attractor_server.errors import StoreFull
from attractor_server.rpc.errors import encode_status
from attractor_server.storage.backends.sqlite import SqliteDatabase


def test_a_full_disk_is_told_at_once_and_not_to_be_repeated(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path)) as store:
        connection = store._connection  # its limit stands for that of a disk
        connection.pragma("max_page_count", connection.pragma("page_count"))
        with pytest.raises(StoreFull) as full, store.transaction() as cursor:
            for number in range(2000):
                cursor.execute("INSERT INTO counters VALUES (?, 1)", (f"{number:0100}",))
        status = encode_status(full.value)
        assert (status.code, "its disk is full" in status.message) == (8, True)
        assert str(tmp_path) not in status.message
        with store.read() as cursor:
            assert cursor.execute("SELECT count(*) FROM counters").fetchone() == (1,)
