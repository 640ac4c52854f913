"""From settings to a running server: Ray, and the shards in it. Each part is imported when its time comes."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from attractor_server.cluster.signals import sigterm_waits
from attractor_server.config import Settings
from attractor_server.errors import SettingsError
from attractor_server.hosts import ANY_HOST, machine_address
from attractor_server.shard.out_of_memory import explain_out_of_memory
from attractor_server.shard.spec import ShardSpec, TLSFiles, Transport, store_address
from attractor_server.sharding.slots import GROUPS
from attractor_server.storage.backends.opening import backend_of
from attractor_server.storage.backends.postgres_password import split_password

if TYPE_CHECKING:
    from attractor_server.cluster.cluster import Cluster
    from attractor_server.cluster.standin import StandIn


_CLOSED: Final = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""For a Ray that is ours alone: who has no token is refused, and it listens on the loopback interface alone, as it does
by itself on systems where it makes no clusters. Read while Ray is imported, here and in its processes"""

Early: TypeAlias = Callable[[str, Sequence[str]], None]
"""Takes the address at which a server can be reached, and its models"""


def spec_of(settings: Settings) -> ShardSpec:
    """Return the spec of each shard, but for its number and port."""
    uri, password = split_password(store_uri_of(settings))
    return ShardSpec(
        host=settings.listen_host,
        port=settings.port,
        ports=min(GROUPS, 65_536 - settings.port) if settings.ray_address and settings.port else 1,
        admin_port=settings.admin_port,
        admin_debug=settings.admin_debug,
        advertise=settings.advertise or _advertised_host(settings.listen_host, on_cluster=bool(settings.ray_address)),
        device=settings.device,
        threads=settings.threads,
        sharing=1 if settings.place_resource else max(1, settings.shards),
        place_resource=settings.place_resource,
        models=None if settings.models is None else settings.models.resolve(),
        bank_bytes=settings.bank_memory_mib << 20,
        bank_dtype=settings.bank_dtype,
        recall=settings.recall,
        store_uri=uri,
        password=password,
        password_file=settings.backend_password_file,
        asks_password=bool(password) and settings.backend_password_file is None,
        artifacts=settings.artifacts,
        request_bytes=settings.request_memory_mib << 20,
        waiting_patterns=settings.waiting_patterns,
        batch_patterns=settings.batch_patterns,
        batch_s=settings.batch_ms / 1000,
        warm_up=settings.warm_up,
        log_file=settings.shard_log,
        log_format=settings.log_format,
        check_banks=settings.check_banks,
        identities=settings.identities and settings.identities.absolute(),
        quotas=settings.quotas and settings.quotas.absolute(),
        audit_log=settings.audit_log and settings.audit_log.absolute(),
        transport=Transport(age_s=settings.connection_age_s),
        tls=tls_files_of(settings),
    )


def tls_files_of(settings: Settings) -> TLSFiles | None:
    """Return the PEM files of each shard. Links are not followed: what they lead to changes when files are renewed."""
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_ca is not None:  # it is for commands that speak to a server as well
            raise SettingsError(f"tls_ca: saw {str(settings.tls_ca)!r}; expected --tls-cert as well, or no TLS")
        return None
    return TLSFiles(
        certificate=settings.tls_cert.absolute(),
        key=settings.tls_key.absolute(),
        client_ca=settings.tls_client_ca and settings.tls_client_ca.absolute(),
        ca=settings.tls_ca and settings.tls_ca.absolute(),
        server_name=settings.tls_server_name,
        optional=settings.tls_optional,
    )


def store_uri_of(settings: Settings) -> str:
    """Return the address of the store that memories are kept in; empty where nothing outlives the server.

    Shards on several nodes share no folder, so that on a cluster one is used only where it was named.
    """
    named = settings.backend_store_uri or settings.data_dir is not None
    return settings.store_uri if settings.durable and (named or not settings.ray_address) else ""


def describe_store(settings: Settings) -> str:
    """Say what becomes of memories."""
    uri = store_uri_of(settings)
    return f"memories are kept in {backend_of(uri).label(uri)}" if uri else "memories are gone when it ends"


@contextmanager
def run_server(
    settings: Settings, *, early: Early = lambda address, models: None, ended: Callable[[], bool] = lambda: False
) -> Iterator["Cluster"]:
    """Run a server as the settings ask for it, until the end of the block.

    One whose memories are kept in this machine calls `early` as soon as a stand-in serves them; shards in Ray take over
    from that before the block begins. Where it has `ended` by then, the stand-in finishes what it accepted instead.

    Raises:
        Ended: it has.
        SettingsError: a setting cannot be meant here.
        ModelFileError: a model file is damaged, or of a newer format.
        StoreFailed: the database that was named cannot be used.
        StoreDamaged: its tables are of a newer format.
    """
    spec = spec_of(settings)
    if spec.durable and settings.shards > GROUPS:
        raise SettingsError(f"shards: saw {settings.shards}; expected at most {GROUPS} of a server that keeps memories")
    if not (spec.durable or settings.shards):
        raise SettingsError(
            "shards: saw 0, but memories not kept would be lost by a move; expected --backend-store-uri as well"
        )
    with ExitStack() as stack:
        if spec.durable:
            stack.enter_context(backend_of(spec.store_uri).lock(store_address(spec)))
        stand_in: StandIn | None = None
        if spec.durable and spec.device == "cpu" and not settings.ray_address:
            from attractor_server.cluster.standin import run_stand_in  # noqa: PLC0415 - loads torch

            with sigterm_waits():
                stand_in = stack.enter_context(run_stand_in(spec))
            spec = replace(spec, follows=stand_in.port)
            early(stand_in.address, stand_in.models)
            _go_on(stand_in, ended)
        stack.enter_context(_ray(spec, settings, checked=stand_in is not None))
        if stand_in is not None:
            _go_on(stand_in, ended)
        from attractor_server.cluster.cluster import cluster  # noqa: PLC0415 - loads ray

        yield stack.enter_context(
            cluster(
                spec,
                shards=settings.shards,
                slots=settings.slots,
                log_level=settings.log_level,
                leaves=settings.leaves_shards,
                joined=bool(settings.ray_address),
                replaces_s=settings.grace_s if settings.on_change == "restart" and spec.durable else None,
                stand_in=stand_in,
            )
        )


class Ended(Exception):
    """The server was told to end before its shards had started, and has."""


def _go_on(stand_in: "StandIn", ended: Callable[[], bool]) -> None:
    if ended():
        stand_in.leave()
        raise Ended


@contextmanager
def _ray(spec: ShardSpec, settings: Settings, *, checked: bool) -> Iterator[None]:
    """Run Ray; models were checked before, or are while it starts, which for the most part is waiting."""
    if not (settings.ray_address or "ray" in sys.modules):
        os.environ.update(_CLOSED)
    from attractor_server.cluster.ray_node import ray_node  # noqa: PLC0415 - loads ray

    with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
        check = (
            None
            if checked
            else thread.submit(_check_models, spec, device="cpu" if settings.ray_address else spec.device)
        )
        try:
            with explain_out_of_memory(spec.bank_bytes):  # Ray's processes are forked beside the banks of a stand-in
                stack.enter_context(ray_node(settings.ray_address))
        except SettingsError:
            if check is not None:
                check.result()  # whose error goes before: it is the caller's own
            raise
        if check is not None:
            check.result()
        yield


def _check_models(spec: ShardSpec, *, device: str) -> None:
    """Find faults here, where they are told in few words; another node may well have the GPU that this one lacks."""
    from attractor_server.model_registry import device_of, load_models  # noqa: PLC0415 - loads torch

    load_models(spec.models, device=device_of(device))


def _advertised_host(host: str, *, on_cluster: bool) -> str:
    """Return the host at which clients reach a shard that listens on that address; empty: its Ray node's own."""
    if host not in ANY_HOST:
        return host
    return "" if on_cluster else machine_address()
