"""Prometheus itself: it scrapes a shard, and sees that one is gone."""

import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL
from urllib.parse import quote

import anyio
import pytest
from tests.support.admin_port import get
from tests.support.shards import serving

from attractor_server.shard.spec import ShardSpec

RULES = Path(__file__).parents[2] / "helm/attractor/files/rules.yaml"
PROMETHEUS = shutil.which("prometheus")
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: a/RELEASE
    static_configs: [{{targets: ["{target}"]}}]
"""
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[str]:
    """The address of one that watches the target."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    await anyio.Path(folder).mkdir(exist_ok=True)
    config = anyio.Path(folder / "prometheus.yml")
    await config.write_text(CONFIG.format(rules=RULES, target=target))
    command = [str(PROMETHEUS), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command.append(f"--web.listen-address={address}")
    async with await anyio.open_process(command, stdout=DEVNULL, stderr=DEVNULL) as process:
        yield address
        process.terminate()


async def ask(address: str, expression: str) -> list[tuple[dict[str, str], str]]:
    """Labels and values of what an expression finds; nothing while it does not answer."""
    try:
        status, text = await get(address, f"/api/v1/query?query={quote(expression)}")
    except OSError:
        return []
    if status != 200:  # it starts
        return []
    return [(one["metric"], one["value"][1]) for one in json.loads(text)["data"]["result"]]


async def until(address: str, expression: str, value: str) -> None:
    with anyio.fail_after(60):
        while [found for _, found in await ask(address, expression)] != [value]:  # noqa: ASYNC110 - another program's
            await anyio.sleep(0.2)


async def test_prometheus_scrapes_a_shard_and_sees_that_it_is_gone(on_disk: ShardSpec, tmp_path: Path) -> None:
    async with (
        serving(replace(on_disk, admin_port=0)) as (shard,),
        prometheus(target := shard.admin_address, tmp_path) as address,
    ):
        await until(address, "attractor_ownership_groups", "64")
        await until(address, 'count(up{job="a/RELEASE"} == 1)', "1")
        assert await ask(address, 'ALERTS{severity="critical"}') == []
        await shard.drain(1.0)
        await until(address, "attractor_draining", "1")
    async with prometheus(target, tmp_path / "gone") as address:
        await until(address, 'count(ALERTS{alertname="AttractorShardDown"})', "1")
