"""A shard's part of what its container may have."""

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attractor_server.app import run_shard
from attractor_server.cgroups import cpu_limit, memory_limit
from attractor_server.errors import SettingsError
from attractor_server.shard import memory_share
from attractor_server.shard import spec as module
from attractor_server.shard.memory_share import free_memory, share_memory
from attractor_server.shard.spec import ShardSpec, available_cores

UNLIMITED_1 = "9223372036854771712"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """A root folder with these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("files", "cores", "mib"),
    [
        ({}, None, None),
        ({"proc/self/cgroup": "0::/"}, None, None),
        (
            {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/cpu.max": "250000 100000",
                "sys/fs/cgroup/memory.max": str(512 << 20),
            },
            2.5,
            512,
        ),
        (
            {
                "proc/self/cgroup": "0::/pods/one/server",
                "sys/fs/cgroup/pods/cpu.max": "800000 100000",
                "sys/fs/cgroup/pods/memory.max": str(2048 << 20),
                "sys/fs/cgroup/pods/one/cpu.max": "200000 100000",
                "sys/fs/cgroup/pods/one/memory.max": str(4096 << 20),
                "sys/fs/cgroup/pods/one/server/cpu.max": "max 100000",
                "sys/fs/cgroup/pods/one/server/memory.max": "max",
            },
            2.0,
            2048,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(256 << 20),
            },
            1.5,
            256,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:memory:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_1,
            },
            None,
            int(UNLIMITED_1) >> 20,
        ),
    ],
    ids=["none", "no limits", "version 2", "groups in groups", "version 1, seen from inside", "version 1, no limits"],
)
def test_limits_of_control_groups_are_found(
    files: Mapping[str, str], cores: float | None, mib: int | None, tmp_path: Path
) -> None:
    root = tree(tmp_path, files)
    limit = memory_limit(root)
    assert (cpu_limit(root), None if limit is None else limit >> 20) == (cores, mib)


def test_a_container_has_no_more_cores_than_its_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(module, "cpu_limit", lambda: 2.5)
    assert available_cores() == 3


@pytest.mark.parametrize(("shards", "models"), [(1, 8), (2, 8), (1, 13)])
def test_banks_of_all_models_and_shards_fit_in_what_the_container_has(
    shards: int, models: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_share, "available_memory", lambda: 4 << 30)
    free = free_memory(shards)
    banks = shards * models * share_memory(free, banks=shards * models)
    assert 0.7 * free < banks < 0.8 * free + 1
    assert free < 4 << 30


async def test_memory_that_leaves_nothing_for_banks_is_refused(
    spec: ShardSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_share, "memory_limit", lambda: 1 << 30)
    with pytest.raises(SettingsError, match=r"^bank_memory_mib: saw 0"):
        async with run_shard(replace(spec, bank_bytes=0)):
            pass


async def test_a_shard_counts_cores_where_it_runs(spec: ShardSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(module, "cpu_limit", lambda: 6.0)
    before, new = torch.get_num_threads(), ThreadPoolExecutor(1)
    try:
        async with run_shard(replace(spec, threads=0, sharing=2)):
            assert await asyncio.get_running_loop().run_in_executor(new, torch.get_num_threads) == 3
    finally:
        new.shutdown(wait=False)
        torch.set_num_threads(before)
