"""Findings on a shard that runs, from its admin port."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Final

from attractor_server.storage.findings import Finding

WAIT_S: Final = 10.0

BUSY_QUEUE: Final = 0.8
"""Part of the queue; the alerts have the same bounds"""

MANY_LOADS: Final = 0.5
"""Pages that are read for each request"""

OLD_LEASE_S: Final = 10.0


_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks shards directly, whatever `http_proxy` says"""


class Scrape:
    """Values of the metrics of a shard."""

    def __init__(self, text: str) -> None:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - where it is asked for

        families = text_string_to_metric_families(text)
        self._samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of that metric over all labels that are not named."""
        wanted = labels.items()
        found = (one for one in self._samples if one.name == f"attractor_{name}")
        return float(sum(one.value for one in found if wanted <= one.labels.items()))

    def mean_ms(self, name: str) -> float:
        """Return the mean of a histogram of seconds, in milliseconds."""
        return 1000 * self.sum(f"{name}_sum") / max(self.sum(f"{name}_count"), 1.0)


def examine_health(address: str) -> Iterator[Finding]:
    """Yield findings on the shard whose admin port is at that address."""
    try:
        status, told = _get(address, "/readyz")
        scrape = Scrape(_get(address, "/metrics")[1])
    except (OSError, ValueError) as error:
        yield Finding("wrong", "admin port", f"{address}: {error}; is it what --admin-port says?")
        return
    yield Finding("ok" if status == 200 else "warning", "shard", told.strip())
    yield _describe_time(scrape)
    yield from _find_faults(scrape)


def _describe_time(scrape: Scrape) -> Finding:
    whole, queue, batch = map(
        scrape.mean_ms, ("request_duration_seconds", "queue_duration_seconds", "batch_duration_seconds")
    )
    busy_s = scrape.sum("engine_busy_seconds_total")
    told = f"{whole:.1f} ms, of which {queue:.1f} ms wait for the engine; a batch takes {batch:.1f} ms"
    return Finding("ok", "requests", f"on average {told}; the engine computed for {busy_s:.1f} s since the start")


def _find_faults(scrape: Scrape) -> Iterator[Finding]:
    waiting, room = scrape.sum("queue_patterns"), scrape.sum("queue_limit_patterns")
    if waiting > BUSY_QUEUE * room:
        yield Finding("warning", "queue", f"{waiting:.0f} patterns wait, at most {room:.0f} may: add shards or threads")
    loads = scrape.sum("bank_loads_total")
    asked = sum(scrape.sum("requests_total", operation=one) for one in ("store", "erase", "query", "recognize"))
    if loads > MANY_LOADS * asked:
        yield Finding(
            "warning", "banks", f"{loads:.0f} pages were read for {asked:.0f} requests: more --bank-memory-mib, or int8"
        )
    if failures := scrape.sum("store_failures_total"):
        yield Finding("warning", "store", f"{failures:.0f} transactions failed since the start: the log says why")
    if damaged := scrape.sum("images_damaged_total"):
        yield Finding("wrong", "pages", f"{damaged:.0f} images were damaged or gone: `attractor verify` names them")
    if (age_s := scrape.sum("lease_age_seconds")) > OLD_LEASE_S:
        yield Finding("wrong", "lease", f"the store was not reached for {age_s:.0f} s: queries are not answered")
    if internal := scrape.sum("requests_total", reason="INTERNAL"):
        yield Finding("warning", "errors", f"{internal:.0f} requests met an unforeseen error: the log says more")


def _get(address: str, path: str) -> tuple[int, str]:
    """Return status and body of a page.

    Raises:
        OSError: nobody answers.
    """
    try:
        with _OPENER.open(f"http://{address}{path}", timeout=WAIT_S) as answer:
            return int(answer.status), str(answer.read(), "utf-8")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
