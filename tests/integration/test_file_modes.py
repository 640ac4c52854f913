"""What is kept can be read by the server's user alone."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR

import anyio.to_thread
import numpy as np
import pytest
from tests.support.shards import serving

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.backends.sqlite_copy import copy


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_folders_and_files_are_their_owners_alone_whatever_the_umask(spec: ShardSpec, tmp_path: Path) -> None:
    kept, copied, pages = tmp_path / "above" / "data", tmp_path / "copies" / "data", tmp_path / "artifacts"
    spec = replace(spec, store_uri=uri_of(kept), artifacts=pages, bank_bytes=1)
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        for name in ("a", "b", "c"):
            await (await client.create_memory(name, model="tiny")).store(np.ones((1, 4, 4), np.float32))
        await anyio.to_thread.run_sync(copy, kept, copied)
        modes = await anyio.to_thread.run_sync(_modes, kept.parent, copied.parent, pages / "shard-0", pages)
    assert {"attractor.db", "attractor.db-wal", "attractor.db-beacon", "data", "shard-0"} <= {p.name for p in modes}
    assert {str(path): oct(mode & 0o777) for path, mode in modes.items()} == {
        str(path): "0o700" if S_ISDIR(mode) else "0o600" for path, mode in modes.items()
    }


def _modes(*folders: Path) -> dict[Path, int]:
    *whole, alone = folders
    return {path: path.stat().st_mode for path in (alone, *whole, *(path for one in whole for path in one.rglob("*")))}
