"""Metrics of real shards, scraped, against what was asked of them."""

import shutil
from dataclasses import replace

import anyio
import anyio.to_thread
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from tests.support.admin_port import ask, get, scrape, value
from tests.support.shards import HERE, THERE, serving

import attractor
from attractor_server.shard.spec import ShardSpec


async def test_a_scrape_says_what_was_done(on_disk: ShardSpec, random: np.random.Generator) -> None:
    patterns = random.random((6, 4, 4), dtype=np.float32)
    async with (
        serving(replace(on_disk, admin_port=0, bank_bytes=1)) as (shard,),
        attractor.connect(shard.info.address, timeout_s=20) as client,
    ):
        memory = await client.create_memory("agents/secret-name", model="tiny", page_patterns=2)
        await memory.store(patterns)
        recall = await memory.query(patterns[:2], match=True)
        for _ in range(2):
            await memory.query(patterns[:2], match=True)
        await memory.recognize(patterns)
        await memory.erase(patterns[0])
        with pytest.raises(attractor.InvalidRequest):
            await memory.query(np.full((1, 4, 4), np.inf, np.float32), known=False)
        with pytest.raises(attractor.MemoryNotFound):
            await client.memory("absent").info()
        found = await scrape(shard.admin_address)
        # Requests, by what became of them
        assert value(found, "requests_total", operation="store", model="tiny", reason="OK") == 1
        assert value(found, "requests_total", operation="query", model="tiny", reason="OK") == 3
        assert value(found, "requests_total", operation="query", reason="INVALID_REQUEST") == 1
        assert value(found, "requests_total", operation="memories.create", reason="OK") == 1
        assert value(found, "requests_total", operation="memories.get", reason="MEMORY_NOT_FOUND") == 1
        assert value(found, "request_duration_seconds_count", operation="query", path="session") == 3
        assert 0 < value(found, "request_duration_seconds_sum", operation="query") < 3 * 20
        # The engine's work
        assert value(found, "patterns_total", operation="store") == 6
        assert value(found, "patterns_total", operation="query") == 6
        assert value(found, "batch_patterns_sum", operation="query") == 6
        assert value(found, "batch_memories_sum", operation="query") == 3
        assert value(found, "batch_duration_seconds_count", operation="query") == 3
        assert value(found, "queue_duration_seconds_count", operation="query") == 3
        assert 0 < value(found, "engine_busy_seconds_total") < 60
        assert value(found, "tenant_patterns_total", tenant="agents") == 6 + 6 + 6 + 1
        assert value(found, "queue_patterns") == 0
        assert value(found, "queue_limit_patterns") == on_disk.waiting_patterns
        # Recalls
        drop = recall.energy_before - recall.energy_after
        assert value(found, "recall_energy_drop_count", model="tiny") == 6
        assert value(found, "recall_energy_drop_sum", model="tiny") == pytest.approx(3 * float(drop.sum()), rel=1e-3)
        assert value(found, "recall_distance_count", model="tiny") == 6
        # Pages and the store
        assert value(found, "bank_pages", model="tiny") <= value(found, "bank_capacity_pages", model="tiny")
        assert value(found, "bank_loads_total", model="tiny") > 0
        assert value(found, "bank_evictions_total", model="tiny") > 0
        assert value(found, "commit_duration_seconds_count", backend="sqlite") == 2
        assert value(found, "commit_memories_sum", backend="sqlite") == 2
        assert value(found, "store_failures_total", backend="sqlite") == 0
        # The shard
        assert value(found, "sessions") == 1
        assert value(found, "handles") == 1
        assert value(found, "memories") == 1
        assert value(found, "ownership_groups") == 64
        assert value(found, "topology_epoch") == 1
        assert 0 <= value(found, "lease_age_seconds") < 60
        assert value(found, "models_info", model="tiny") == 1
        # Nobody's name
        _, text = await get(shard.admin_address, "/metrics")
        assert "secret-name" not in text


async def test_memories_that_come_back_and_what_is_passed_on_are_counted(
    on_disk: ShardSpec, random: np.random.Generator
) -> None:
    patterns = random.random((2, 4, 4), dtype=np.float32)
    watched = replace(on_disk, admin_port=0)
    async with serving(on_disk) as (shard,), attractor.connect(shard.info.address, timeout_s=20) as client:
        for name in (HERE, THERE):
            await (await client.create_memory(name, model="tiny")).store(patterns)
    async with (
        serving(watched, 2) as (here, there),
        attractor.connect(here.info.address, timeout_s=20, direct=False) as client,
    ):
        for name in (HERE, THERE):
            await client.memory(name).query(patterns)
        first, second = [await scrape(shard.admin_address) for shard in (here, there)]
        for found in (first, second):
            assert value(found, "restores_total", model="tiny") == 1
            assert value(found, "restore_duration_seconds_count", model="tiny") == 1
            assert value(found, "requests_total", operation="query", reason="OK") == 1
        assert value(first, "forwarded_total", kind="session") == 1
        assert value(first, "forwarded_total", kind="call") > 0
        assert value(first, "upstreams") == 1
        assert value(second, "forwarded_total") == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: it comes with Prometheus")
async def test_prometheus_finds_no_fault_with_a_scrape(on_disk: ShardSpec) -> None:
    async with serving(replace(on_disk, admin_port=0)) as (shard,):
        _, text = await get(shard.admin_address, "/metrics")
    checked = await anyio.run_process(["promtool", "check", "metrics"], input=text.encode(), check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


async def test_prometheus_may_ask_for_open_metrics(spec: ShardSpec) -> None:
    async with serving(replace(spec, admin_port=0)) as (shard,):
        accept = "application/openmetrics-text; version=1.0.0"
        _, text = await anyio.to_thread.run_sync(lambda: ask(shard.admin_address, "/metrics", Accept=accept))
    families = list(parse_open_metrics(text))
    assert {family.name for family in families} >= {"attractor_requests", "process_resident_memory_bytes"}
    assert text.endswith("# EOF\n")
