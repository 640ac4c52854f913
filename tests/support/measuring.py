"""Shards with the operation that `docs/extending.md` adds, asked by the SDK: a process for sources with that change.

Writes the answers of each memory, or its error, to standard output. Arguments: a folder of models, the address of a
store, and a folder with patterns to store and to measure.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray
from tests.support.shards import HERE, THERE, connected, serving

import attractor
from attractor_server.shard.spec import ShardSpec


def measure_one(address: str, name: str, pattern: NDArray[np.float32]) -> float:
    """Measure a single pattern without async."""
    with attractor.Client(address, timeout_s=20) as client:
        return float(client.memory(name).measure(pattern))  # type: ignore[attr-defined]


async def main(*arguments: str) -> None:
    """Ask two shards that keep patterns, one by way of the other, and one that keeps none."""
    models, store, folder = arguments
    stored, asked = (np.load(Path(folder) / f"{name}.npy") for name in ("stored", "asked"))
    spec = ShardSpec(models=Path(models), bank_bytes=1 << 20, warm_up=False, check_banks=True)
    found: dict[str, object] = {}
    async with serving(replace(spec, store_uri=store), 2) as (shard, _):
        async with attractor.connect(shard.info.address, timeout_s=20, direct=False) as client:
            for name in (HERE, THERE):
                memory = await client.create_memory(name, model="tiny", page_patterns=3)
                await memory.store(stored)
                found[name] = (await memory.measure(asked)).tolist()  # type: ignore[attr-defined]
            empty = await client.create_memory("empty", model="tiny")
            found["empty"] = (await empty.measure(asked)).tolist()  # type: ignore[attr-defined]
        found["one"] = await anyio.to_thread.run_sync(measure_one, shard.info.address, HERE, asked[-1])
    async with connected(spec) as client:
        memory = await client.create_memory("m", model="tiny")
        try:
            await memory.measure(asked)  # type: ignore[attr-defined]
        except attractor.NotKept as error:
            found["not_kept"] = str(error)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
