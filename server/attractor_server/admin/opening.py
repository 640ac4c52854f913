"""The admin port of a shard put together: its recorder before its parts are made, its pages when they are."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Final

from prometheus_client import disable_created_metrics

from attractor_server.admin.gauges import ShardGauges
from attractor_server.admin.metrics import Metrics
from attractor_server.admin.pages import AdminPages
from attractor_server.admin.server import AdminServer
from attractor_server.admin.tracing import find_tracer
from attractor_server.engine.engine import Engine
from attractor_server.shard.certificates import Certificates
from attractor_server.shard.shard import Shard
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.opening import backend_of

_SECRETS: Final = ("password", "secret", "store_uri")


def make_metrics(spec: ShardSpec) -> Metrics | None:
    """Return the recorder of a shard with an admin port, or with traces; None for one that has neither."""
    disable_created_metrics()  # a second series for each counter, which nobody reads
    tracer = find_tracer()
    if spec.admin_port is None and tracer is None:
        return None
    return Metrics(backend=spec.store_uri.partition(":")[0] or "none", tracer=tracer)


def make_admin_server(  # noqa: PLR0913 - all that its pages tell of
    spec: ShardSpec,
    metrics: Metrics,
    *,
    shard: Shard,
    engine: Engine,
    find_hindrance: Callable[[], str],
    warm_up_s: Callable[[], Mapping[str, float]],
    certificates: Certificates | None,
) -> AdminServer:
    """Return the admin server of a shard, to be opened."""
    assert spec.admin_port is not None
    metrics.registry.register(
        ShardGauges(
            shard=shard,
            engine=engine,
            metrics=metrics,
            device=spec.device,
            warm_up_s=warm_up_s,
            certificates=certificates,
        )
    )
    pages = AdminPages(
        registry=metrics.registry,
        settings=describe_settings(spec),
        find_hindrance=find_hindrance,
        debug=spec.admin_debug,
    )
    ports = range(spec.admin_port, spec.admin_port + (spec.ports if spec.admin_port else 1))
    return AdminServer(pages, host=spec.host, ports=ports)


def describe_settings(spec: ShardSpec) -> Mapping[str, object]:
    """Return the settings of a shard without what is secret: of its store's address the label."""
    told = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in _SECRETS}
    transport = {field.name: getattr(spec.transport, field.name) for field in fields(spec.transport)}
    store = backend_of(spec.store_uri).label(spec.store_uri) if spec.store_uri else "none"
    return {**told, "transport": transport, "store": store}
