"""How many stores a second does a shard commit, in SQLite and in PostgreSQL?

Records of 4 kB through the memory store, one for each of so many memories in a commit, each with the memory's row, the
page's row and the numbered answer; on one disk, PostgreSQL over loopback, from a server that is started for it.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from _report import Result, report
from tests.support.postgresql import running

from attractor_server.memories.records import Change, Entry, NewMemory, WriteAck
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.memory_store import SqlMemoryStore

SECONDS, VALUES = 5.0, np.ones((1, 1000), np.float32)
GROUPS = (1, 16, 64)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, running() as server:
        report(
            [
                Result(
                    name=f"{group} memories in a commit",
                    unit="stores/s",
                    ours=stores_per_s(server.store(), group),
                    peer="SQLite",
                    theirs=stores_per_s(uri_of(Path(folder) / str(group)), group),
                )
                for group in GROUPS
            ]
        )


def stores_per_s(store_uri: str, group: int) -> float:
    """Return stores a second of one shard, one commit after another."""
    with open_memory_store(store_uri) as journal:
        settings = MemorySettings(page_patterns=1 << 20)
        new = [NewMemory(name=f"m/{n}", model="m", model_digest="d", settings=settings) for n in range(group)]
        memories = [memory.id for memory in journal.create(new)]
        version, end_s = 0, time.perf_counter() + SECONDS
        while time.perf_counter() < end_s:
            version += 1
            journal.commit([change(memory, version) for memory in memories])
        return version * group / (time.perf_counter() - end_s + SECONDS)


def change(memory: int, version: int) -> Change:
    """Return a change that adds one pattern."""
    return Change(
        memory=memory,
        version=version,
        patterns=version,
        pages={0: version},
        entries=[Entry(page=0, version=version, written=version, values=VALUES)],
        told=[WriteAck(client="c", sequence=version, version=version, patterns=version)],
    )


@contextmanager
def open_memory_store(store_uri: str) -> Iterator[SqlMemoryStore]:
    """Open a memory store in a database of its own."""
    store = open_store(store_uri)
    with closing(store):
        yield SqlMemoryStore(store)


if __name__ == "__main__":
    main()
