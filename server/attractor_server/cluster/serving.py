"""From settings to a running server: Ray, and the shards in it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from attractor_server.cluster.cluster import Cluster, cluster
from attractor_server.cluster.node import ray_node
from attractor_server.config import Settings
from attractor_server.errors import SettingsError
from attractor_server.rpc.server import Transport
from attractor_server.spec import ShardSpec, threads_for
from attractor_server.storage import lock, postgres_lock
from attractor_server.storage.address import Address
from attractor_server.storage.groups import GROUPS
from attractor_server.storage.postgres import Postgres


def spec_of(settings: Settings) -> ShardSpec:
    """What each shard is told, apart from its number and port."""
    embedded = not settings.ray_address
    return ShardSpec(
        host=settings.host,
        port=settings.port,
        advertise=settings.advertise or (_local(settings.host) if embedded else ""),
        device=settings.device,
        threads=threads_for(settings.threads, settings.shards),
        models=None if settings.models is None else settings.models.resolve(),
        bank_bytes=settings.bank_memory_mib << 20,
        bank_dtype=settings.bank_dtype,
        data=data_of(settings),
        store_uri=settings.backend_store_uri if settings.durable else "",
        artifacts=settings.artifacts,
        waiting_patterns=settings.waiting_patterns,
        batch_patterns=settings.batch_patterns,
        batch_s=settings.batch_ms / 1000,
        warm_up=settings.warm_up,
        transport=Transport(age_s=settings.connection_age_s),
    )


def data_of(settings: Settings) -> Path | None:
    """The folder that memories are kept in; None where they are kept in a database, or nothing outlives the server.

    Shards on several nodes share no folder, so that on a cluster one is used only where it was named.
    """
    if not settings.durable or settings.backend_store_uri or (settings.ray_address and settings.data_dir is None):
        return None
    return settings.data_folder


def kept_in(settings: Settings) -> str:
    """What becomes of memories, in words."""
    if settings.durable and settings.backend_store_uri:
        return f"memories are kept in {Address(settings.backend_store_uri)}"
    data = data_of(settings)
    return "memories are gone when it ends" if data is None else f"memories are kept in {data}"


@contextmanager
def serving(settings: Settings) -> Iterator[Cluster]:
    """A server as the settings ask for it, until the end of the block.

    Raises:
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
    if spec.store_uri:
        Postgres(spec.store_uri).close()
    with ExitStack() as stack:
        stack.enter_context(_held(spec))
        with ThreadPoolExecutor(1) as thread:  # Ray takes some seconds to start, most of them waiting
            checked = thread.submit(_check, spec, device="cpu" if settings.ray_address else settings.device)
            stack.enter_context(ray_node(settings.ray_address))
            checked.result()
        yield stack.enter_context(
            cluster(spec, shards=settings.shards, slots=settings.slots, log_level=settings.log_level)
        )


def _check(spec: ShardSpec, *, device: str) -> None:
    """Finds faults here, where they are told in few words; another node may well have the GPU that this one lacks."""
    from attractor_server.app import device_of, load_models  # noqa: PLC0415 - loads torch

    load_models(spec.models, device=device_of(device))


def _held(spec: ShardSpec) -> AbstractContextManager[None]:
    """Where memories are kept, to be this server's alone."""
    if spec.store_uri:
        return postgres_lock.held(spec.store_uri)
    return nullcontext() if spec.data is None else lock.held(spec.data)


def _local(host: str) -> str:
    """Where a client on this machine reaches what listens on that address."""
    return "127.0.0.1" if host in ("0.0.0.0", "[::]", "::") else host  # noqa: S104
