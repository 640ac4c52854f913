"""The admin port of a shard, asked as Prometheus and the kubelet ask it."""

import urllib.error
import urllib.request
from collections.abc import Mapping

import anyio.to_thread
from prometheus_client.parser import text_string_to_metric_families

WAIT_S = 20
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""By name and labels"""


def ask(address: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and body of a page."""
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def get(address: str, path: str) -> tuple[int, str]:
    return await anyio.to_thread.run_sync(ask, address, path)


async def scrape(address: str) -> Samples:
    status, text = await get(address, "/metrics")
    assert status == 200, text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of that name, over all labels that are not named; 0 where there is none."""
    wanted = labels.items()
    return sum(value for (found, have), value in samples.items() if found == f"attractor_{name}" and wanted <= have)
