"""Drills: a copy is made while a server stores, the server is lost, and another one goes on from the copy."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
from anyio import to_thread
from click.testing import CliRunner
from tests.support.postgresql import PROGRAMS, PostgresServer
from tests.support.shards import models, serving, spec
from tests.support.tiny_models import IMAGE

import attractor
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.backends.sqlite import FILE
from attractor_server.storage.backends.sqlite_backend import uri_of

__all__ = ["models", "spec"]


def pattern(seed: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.random.default_rng(seed).random((1, *IMAGE.shape), dtype=np.float32)


@asynccontextmanager
async def storing(spec: ShardSpec) -> AsyncIterator[list[int]]:
    """A server and a client that stores all the time; yields what has been acknowledged."""
    acknowledged, enough = [0], anyio.Event()
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memory = await client.create_memory("m", model="tiny")

        async def store() -> None:
            while True:
                acknowledged[0] = (await memory.store(pattern(acknowledged[0]))).total
                if acknowledged[0] == 5:
                    enough.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store)
            await enough.wait()
            yield acknowledged
            tasks.cancel_scope.cancel()


async def check(spec: ShardSpec, least: int) -> None:
    """Make sure that all that was stored before the copy is there, in order and once, and that stores go on."""
    async with serving(spec) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        memory = await client.get_memory("m")
        kept = (await memory.info()).patterns
        assert kept >= least
        items = [item async for item in memory.items.list(values=True)]
        assert len(items) == kept
        for seed, item in enumerate(items):
            assert item.pattern is not None
            assert (item.pattern == pattern(seed)[0]).all()
        assert (await memory.store(pattern(99))).total == kept + 1


async def test_a_folder_comes_back_from_a_copy_made_while_it_was_written(spec: ShardSpec, tmp_path: Path) -> None:
    folder, copy = tmp_path / "data", tmp_path / "copy"
    async with storing(replace(spec, store_uri=uri_of(folder))) as acknowledged:
        before = acknowledged[0]
        said = await to_thread.run_sync(
            lambda: CliRunner().invoke(main, ["backup", str(copy), "--data-dir", str(folder)])
        )
        assert said.exit_code == 0, said.output
    await check(replace(spec, store_uri=uri_of(copy)), before)


async def test_a_database_comes_back_from_pg_dump(spec: ShardSpec, postgres: PostgresServer, tmp_path: Path) -> None:
    assert PROGRAMS is not None
    uri, dump = postgres.store(), tmp_path / "dump"
    schema = uri.rpartition("%3D")[2]
    async with storing(replace(spec, store_uri=uri)) as acknowledged:
        before = acknowledged[0]
        dumped = [PROGRAMS / "pg_dump", "--format=custom", f"--schema={schema}", f"--file={dump}", postgres.uri]
        await anyio.run_process([str(word) for word in dumped])
    await to_thread.run_sync(postgres.execute, f"DROP SCHEMA {schema} CASCADE")
    await anyio.run_process([str(PROGRAMS / "pg_restore"), f"--dbname={postgres.uri}", str(dump)])
    await check(replace(spec, store_uri=uri), before)


def test_the_charts_copies_are_verified_and_the_oldest_ones_go(tmp_path: Path) -> None:
    folder, copies, shims = tmp_path / "data", tmp_path / "copies", tmp_path / "bin"
    for old in ("01-01T00-00-00Z", "01-03T00-00-00Z", "01-02T00-00-00Z", "01-04T00-00-00Z.unfinished"):
        (copies / f"2026-{old}").mkdir(parents=True)
    open_store(uri_of(folder)).close()
    shims.mkdir()
    (shims / "attractor").write_text(f'#!/bin/sh\nexec {sys.executable} -m attractor_server.cli "$@"\n')
    (shims / "attractor").chmod(0o755)
    given = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}", "COPIES": str(copies), "KEEP": "2"}
    given["ATTRACTOR_DATA_DIR"] = str(folder)
    script = Path(__file__).parents[2] / "helm" / "attractor" / "files" / "backup.sh"
    done = subprocess.run(["bash", script], env=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    former, new = sorted(copies.iterdir())
    assert former.name == "2026-01-03T00-00-00Z"
    assert (new / FILE).is_file()
