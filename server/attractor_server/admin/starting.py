"""Loads the rest of this package where a shard has an admin port, or traces; else nothing."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attractor_server.engine.engine import Engine
from attractor_server.shard.certificates import Certificates
from attractor_server.shard.shard import Shard
from attractor_server.shard.spec import ShardSpec

if TYPE_CHECKING:
    from attractor_server.admin.metrics import Metrics
    from attractor_server.admin.server import AdminServer


def start_metrics(spec: ShardSpec) -> "Metrics | None":
    """Return the recorder of a shard with an admin port, or with traces; None for one that has neither. Blocks."""
    if spec.admin_port is None and not _may_trace():
        return None
    from attractor_server.admin.opening import make_metrics  # noqa: PLC0415 - as said above

    return make_metrics(spec)


def make_admin(  # noqa: PLR0913 - all that its pages tell of
    spec: ShardSpec,
    metrics: "Metrics",
    *,
    shard: Shard,
    engine: Engine,
    serves: Callable[[], bool],
    warm_up_s: Callable[[], Mapping[str, float]],
    certificates: Certificates | None,
) -> "AdminServer":
    """Return the admin server of a shard, to be opened."""
    from attractor_server.admin.opening import make_admin_server  # noqa: PLC0415 - as said above

    def find_hindrance() -> str:
        return "" if serves() else "draining" if shard.draining.is_set() else "starting"

    return make_admin_server(
        spec,
        metrics,
        shard=shard,
        engine=engine,
        find_hindrance=find_hindrance,
        warm_up_s=warm_up_s,
        certificates=certificates,
    )


def _may_trace() -> bool:
    """Return whether somebody has set up traces, or the variables may ask for them."""
    return "opentelemetry.sdk.trace" in sys.modules or any(name.startswith("OTEL_") for name in os.environ)
