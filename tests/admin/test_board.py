"""The board, the alerts and the page for operators: they name metrics that there are, and the page names all."""

import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.support.admin_port import get
from tests.support.shards import serving

from attractor_server.shard.spec import ShardSpec

ROOT = Path(__file__).parents[2]
BOARD, RULES, PAGE = (
    (ROOT / file).read_text()
    for file in ("helm/attractor/files/board.json", "helm/attractor/files/rules.yaml", "docs/operations.md")
)
NAMED = re.compile(r"\b(?:attractor|process)_[a-z_]+")
"""Metrics as expressions and pages name them"""
DEVICE = "attractor_device_memory_bytes"
"""Which only a GPU has"""


def sample_names(text: str) -> set[str]:
    """The names that samples of a page of metrics have, or would have."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    found = text_string_to_metric_families(text)
    return {family.name + ending for family in found for ending in endings.get(family.type, ("",))}


async def test_the_board_the_alerts_and_the_page_name_the_metrics_that_there_are(on_disk: ShardSpec) -> None:
    async with serving(replace(on_disk, admin_port=0)) as (shard,):
        _, text = await get(shard.admin_address, "/metrics")
    names = sample_names(text) | {DEVICE}
    for text in (BOARD, RULES):
        used = set(NAMED.findall(text))
        assert used
        assert used <= names
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if name.startswith("attractor_")}
    assert {one for one in NAMED.findall(PAGE) if one.startswith("attractor_")} == families


def test_the_page_says_what_each_alert_means() -> None:
    assert re.findall(r"^\| `(Attractor\w+)`", PAGE, re.MULTILINE) == re.findall(r"alert: (\w+)", RULES)
