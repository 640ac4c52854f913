"""One client object in many processes and tasks: what is acknowledged is kept, and recalled."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest
from tests.support.shards import serving
from tests.support.tiny_models import IMAGE

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

STORES = 6
"""Of each worker."""
_WORKERS = f"""
import asyncio, copy, json, multiprocessing, os, pickle, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import attractor

STORES, SHAPE = {STORES}, {IMAGE.shape}
client = attractor.Client(sys.argv[1], timeout_s=30)  # as a module of a web application has it
awaited = attractor.connect(sys.argv[1], timeout_s=30)


def store(given, worker):
    with given:
        memory = given.memory("m")
        stored = [memory.store(np.full(SHAPE, worker / 16 + number / 160, np.float32)) for number in range(STORES)]
    return len(stored)


def fork():
    def child(worker):
        if not (process := os.fork()):
            os._exit(store(client, worker))
        return process

    return sum(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in [child(n) for n in range(4)])


def multiprocess(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return sum(pool.starmap(store, [(client, worker) for worker in range(4)]))


def parallel():
    from joblib import Parallel, delayed

    return sum(Parallel(n_jobs=2)(delayed(store)(client, worker) for worker in range(4)))


def cloudpickled():
    from ray import cloudpickle

    packed = cloudpickle.dumps(lambda worker: store(client, worker))
    return sum(cloudpickle.loads(packed)(worker) for worker in range(4))


def threads():
    with client, ThreadPoolExecutor(4) as pool:
        copies = [copy.deepcopy(client), pickle.loads(pickle.dumps(client)), copy.copy(client)]
        return sum(pool.map(store, copies, range(3)))


async def requests():
    async def answer(worker):
        try:
            async with awaited:
                memory = awaited.memory("m")
                return len([await memory.store(np.full(SHAPE, worker / 16, np.float32)) for _ in range(STORES)])
        except attractor.ClientOpen:
            return 0

    return sum(await asyncio.gather(*map(answer, range(10))))


HOW = {{
    "fork": fork,
    "pool of forks": lambda: multiprocess("fork"),
    "pool of spawned": lambda: multiprocess("spawn"),
    "joblib": parallel,
    "cloudpickle": cloudpickled,
    "threads": threads,
    "requests": lambda: asyncio.run(requests()),
}}
if __name__ == "__main__":
    print(json.dumps(HOW[sys.argv[2]]()))
"""


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ("fork", 4),
        ("pool of forks", 4),
        ("pool of spawned", 4),
        ("joblib", 4),
        ("cloudpickle", 4),
        ("threads", 3),
        ("requests", 1),
    ],
)
async def test_all_stores_of_one_client_object_are_kept(
    spec: ShardSpec, tmp_path: Path, how: str, workers: int
) -> None:
    if how == "joblib":
        pytest.importorskip("joblib", reason="joblib is not installed")
    script = tmp_path / "workers.py"
    await anyio.to_thread.run_sync(script.write_text, _WORKERS)
    async with (
        serving(replace(spec, store_uri=uri_of(tmp_path / "data"))) as (shard,),
        attractor.connect(shard.info.address, timeout_s=20) as client,
    ):
        memory = await client.create_memory("m", model="tiny")
        acknowledged = await anyio.to_thread.run_sync(run, script, shard.info.address, how)
        assert acknowledged == workers * STORES
        info = await memory.info()
        assert (info.patterns, info.version) == (acknowledged, acknowledged)
        if how != "requests":
            stored = [worker / 16 + number / 160 for worker in range(workers) for number in range(STORES)]
            cues = np.stack([np.full(IMAGE.shape, value, np.float32) for value in stored])
            assert (await memory.erase(cues)).total == 0  # each of them was there


def run(script: Path, address: str, how: str) -> int:
    users = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    command = [sys.executable, str(script), address, how]
    ran = subprocess.run(command, env=users, capture_output=True, text=True, check=False, timeout=100)
    assert ran.returncode == 0, ran.stderr
    return int(json.loads(ran.stdout))
