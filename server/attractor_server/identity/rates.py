"""Rates of namespaces: token buckets for patterns and requests, of which each shard has an equal part."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio

from attractor_server.errors import Expired, RateExceeded
from attractor_server.identity.quota_file import Quota
from attractor_server.identity.quotas import Quotas

BURST_S: Final = 1.0
"""A namespace that was silent for so long may ask for what it has in that time at once"""

LOOK_S: Final = 1.0
"""Longest sleep of one who waits: meanwhile the quota may have changed"""

_BUCKETS_LIMIT: Final = 16_384
"""Namespaces whose buckets are kept; one that has been silent for longest is full anyway"""


@dataclass(slots=True)
class _Bucket:
    """Tokens of one kind. What is taken may be more than there is: then it is owed."""

    level: float = 0.0
    filled_s: float | None = None

    def fill(self, rate: float, now_s: float) -> float:
        """Return the time until something may be taken; 0 where it may be now."""
        burst = max(rate * BURST_S, 1.0)
        self.level = burst if self.filled_s is None else min(burst, self.level + (now_s - self.filled_s) * rate)
        self.filled_s = now_s
        return 0.0 if self.level > 0 else (1e-3 - self.level) / rate


@dataclass(slots=True)
class _Buckets:
    """Buckets of one namespace, and the line of those who wait for them."""

    patterns: _Bucket = field(default_factory=_Bucket)
    requests: _Bucket = field(default_factory=_Bucket)
    line: anyio.Lock = field(default_factory=anyio.Lock)


class Rates:
    """Requests and patterns that namespaces may ask for in a second. Lives on one event loop."""

    def __init__(self, quotas: Quotas, count_shards: Callable[[], int]) -> None:
        """`count_shards` says by how many shards a rate is shared."""
        self._quotas = quotas
        self._count_shards = count_shards
        self._buckets: OrderedDict[str, _Buckets] = OrderedDict()

    def check(self, namespace: str, *, patterns: int = 0, requests: int = 0) -> None:
        """Take tokens for what was asked for, or refuse it.

        Raises:
            RateExceeded: the namespace has asked for more than it may lately.
        """
        quota = self._quotas.of(namespace)
        if not quota.bounds_rates:
            return
        buckets = self._find(namespace)
        delay_s, kind = self._look(buckets, quota, patterns, requests)
        if kind or buckets.line.locked():
            kind = kind or ("patterns_per_s" if patterns else "requests_per_s")
            self._quotas.on_limit(namespace)
            limit = quota.patterns_per_s if kind == "patterns_per_s" else quota.requests_per_s
            raise RateExceeded(namespace, kind, limit or 0.0, retry_s=max(delay_s, 1e-3))
        _take(buckets, patterns, requests)

    def is_free(self, namespace: str) -> bool:
        """Return whether nothing bounds the rates of that namespace."""
        return not self._quotas.of(namespace).bounds_rates

    async def wait(self, namespace: str, *, patterns: int, deadline_s: float | None) -> None:
        """Take tokens for a request of so many patterns as soon as there are any.

        Those of one namespace wait in line. `deadline_s` is on the event loop's clock.

        Raises:
            Expired: there will be none before the deadline.
        """
        waited = False
        buckets = self._find(namespace)
        async with buckets.line:
            while True:
                delay_s, kind = self._look(buckets, self._quotas.of(namespace), patterns, 1)
                if not kind:
                    _take(buckets, patterns, 1)
                    return
                if deadline_s is not None and deadline_s < asyncio.get_running_loop().time() + delay_s:
                    raise Expired(
                        f"the deadline comes before the request's turn: its namespace has asked for more {kind} than "
                        "it may; it was not computed"
                    )
                if not waited:
                    self._quotas.on_limit(namespace)
                waited = True
                await anyio.sleep(min(delay_s, LOOK_S))

    def _look(self, buckets: _Buckets, quota: Quota, patterns: int, requests: int) -> tuple[float, str]:
        """Return how long to wait, and the bound that says so; the empty text for none."""
        now_s, share = asyncio.get_running_loop().time(), max(self._count_shards(), 1)
        waits = [
            (bucket.fill(rate / share, now_s), kind)
            for kind, bucket, rate, asked in (
                ("patterns_per_s", buckets.patterns, quota.patterns_per_s, patterns),
                ("requests_per_s", buckets.requests, quota.requests_per_s, requests),
            )
            if rate is not None and asked
        ]
        delay_s, kind = max(waits, default=(0.0, ""))
        return (delay_s, kind) if delay_s else (0.0, "")

    def _find(self, namespace: str) -> _Buckets:
        if (buckets := self._buckets.get(namespace)) is None:
            if len(self._buckets) >= _BUCKETS_LIMIT:
                self._buckets.popitem(last=False)
            buckets = self._buckets[namespace] = _Buckets()
        self._buckets.move_to_end(namespace)
        return buckets


def _take(buckets: _Buckets, patterns: int, requests: int) -> None:
    buckets.patterns.level -= patterns
    buckets.requests.level -= requests
