"""One shard put together: models, engine, batcher, and the gRPC server before them."""

import logging
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import torch
from anyio.abc import TaskGroup

from attractor_server.admin.starting import make_admin, start_metrics
from attractor_server.energy.model import Model
from attractor_server.engine.background_compile import BackgroundCompiler
from attractor_server.engine.engine import Engine
from attractor_server.engine.pages.spill import Residency
from attractor_server.engine.warmup import Warmup
from attractor_server.errors import SettingsError, StoreFailed
from attractor_server.files import make_folder
from attractor_server.identity.audit import AuditLog, open_audit_log
from attractor_server.identity.identities import Identities
from attractor_server.identity.quotas import Quotas
from attractor_server.model_registry import archive_models, device_of, load_former_models, load_models, model_paths
from attractor_server.recorder import SILENT, Recorder
from attractor_server.rpc.server import RpcServer, open_server
from attractor_server.scheduling.batch_size import CONTENTION_PART
from attractor_server.scheduling.batcher import Batcher, LeaseGuard
from attractor_server.shard.certificates import Certificates
from attractor_server.shard.expiry import clear, sweep
from attractor_server.shard.memory_share import free_memory, share_memory
from attractor_server.shard.out_of_memory import explain_out_of_memory
from attractor_server.shard.shard import Limits, Resize, Shard
from attractor_server.shard.spec import ShardSpec, store_address, threads_for
from attractor_server.shard.trimming import trim
from attractor_server.sharding.topology import ShardInfo, Topology
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.claims import Claims
from attractor_server.storage.memory_store import SqlMemoryStore
from attractor_server.storage.process import Incarnation

if TYPE_CHECKING:
    from attractor_server.admin.server import AdminServer

__all__ = [
    "FRAME_PATTERNS_LIMIT",
    "RunningShard",
    "ShardSpec",
    "compute_limits",
    "device_of",
    "load_models",
    "run_shard",
]

logger = logging.getLogger(__name__)

FRAME_PATTERNS_LIMIT = 1024

LOOKS_BUSY_MS = 2_000
"""Wait of a claim for a transaction of another shard; a look waits for none"""


@dataclass(frozen=True)
class RunningShard:
    """A shard that answers."""

    info: ShardInfo
    models: Sequence[str]
    _shard: Shard
    _listening: RpcServer
    _warming: Warmup
    _compiling: BackgroundCompiler
    _tasks: TaskGroup
    _admin: "AdminServer | None" = None

    @property
    def admin_address(self) -> str:
        """Where probes and metrics are, host:port; empty where there are none."""
        return "" if self._admin is None else self._admin.address

    @property
    def warm(self) -> bool:
        """Whether its programs have been run, as far as nobody should wait for that."""
        return self._warming.done.is_set()

    @property
    def warm_up_s(self) -> Mapping[str, float]:
        """Seconds that it took to warm each model, as far as that is done."""
        return self._warming.took_s

    @property
    def compiling_s(self) -> Mapping[str, float]:
        """Seconds that it took to compile each model that has no closed form, as far as that is done."""
        return self._compiling.took_s

    @property
    def epoch(self) -> int:
        """Epoch of the topology that the shard follows: it has claimed and released what that says. 0 for none."""
        return self._shard.followed

    @property
    def topology(self) -> Topology | None:
        """Newest topology that the shard was given."""
        return self._shard.newest

    @property
    def held(self) -> frozenset[int]:
        """Groups of slots that are the shard's in the store."""
        return frozenset() if self._shard.ownership is None else self._shard.ownership.held

    async def learn(self, topology: Topology, *, seize: Collection[int] = ()) -> None:
        """Give the shard a topology, once it is warm; from the first time on it serves.

        Groups in `seize` are taken from owners that may be alive. Returns when what is free has been claimed.

        Raises:
            StoreFailed: not all was claimed or released.
        """
        await self._warming.done.wait()
        await self._listening.open()
        if self._admin is not None:
            self._admin.bind()
            self._admin.start(self._tasks)
        self._shard.learn(topology)
        self._listening.peers.keep_only(self._shard.topology.owning)
        await self._shard.follow(seize=seize)
        await self._listening.ready()

    async def drain(self, grace_s: float) -> bool:
        """Send clients away and stop. Return whether everything that was accepted is finished."""
        return await self._listening.drain(grace_s)


@asynccontextmanager
async def run_shard(spec: ShardSpec, *, resize: Resize | None = None) -> AsyncIterator[RunningShard]:
    """Run a shard in this process and event loop, until the end of the block.

    `resize` is called with the number of shards that a client asks for.

    Raises:
        SettingsError: the spec cannot be meant on this machine.
        ModelFileError: a model file is damaged, or of a newer format.
        ExceptionGroup: with BankBroken in it, after the shard has ended for that.
    """
    spec = replace(spec, threads=threads_for(spec.threads, spec.sharing))
    identities = None if spec.identities is None else await anyio.to_thread.run_sync(Identities, spec.identities)
    quotas = await anyio.to_thread.run_sync(Quotas, spec.quotas)
    certificates = None if spec.tls is None else await anyio.to_thread.run_sync(Certificates, spec.tls)
    metrics = await anyio.to_thread.run_sync(start_metrics, spec)
    recorder: Recorder = SILENT if metrics is None else metrics
    async with _open_audit(spec) as audit, _prepare(spec, recorder) as (models, engine, store, bank_bytes):
        batcher = Batcher(
            engine if store is None else LeaseGuard(engine, lease=store.ownership),
            waiting_limit=spec.waiting_patterns,
            batch_limit=spec.batch_patterns,
            batch_s=spec.batch_s,
            recorder=recorder,
        )
        warmed = models.values() if spec.warm_up else ()
        warming = Warmup(engine, warmed, bank_bytes=bank_bytes)
        compiling = BackgroundCompiler(warmed, threads=spec.threads)
        limits = replace(compute_limits(models), request_bytes=spec.request_bytes)
        shard = Shard(number=spec.number, models=models, batcher=batcher, limits=limits, store=store, recorder=recorder)
        shard.secret, shard.recall = spec.secret, spec.recall
        shard.identities, shard.audit = identities, audit
        shard.follow_quotas(quotas)
        if identities is not None and audit is not None:
            identities.on_read = lambda outcome: audit.write(what="identities", outcome=outcome)
        shard.resize = None if store is None else resize
        ports = range(spec.port, spec.port + spec.ports)
        async with open_server(
            shard,
            host=spec.host,
            ports=ports,
            advertise=spec.advertise,
            transport=spec.transport,
            certificates=certificates,
        ) as server:
            admin = None
            if metrics is not None and spec.admin_port is not None:
                admin = make_admin(
                    spec,
                    metrics,
                    shard=shard,
                    engine=engine,
                    serves=lambda: server.serves,
                    warm_up_s=lambda: warming.took_s,
                    certificates=certificates,
                )
            if not spec.follows:
                await server.open()
                if admin is not None:
                    admin.bind()
            async with anyio.create_task_group() as tasks:
                if admin is not None and not spec.follows:
                    admin.start(tasks)
                tasks.start_soon(partial(batcher.run, warming.steps(), between=warming.more()))
                tasks.start_soon(compiling.run, warming.done)
                tasks.start_soon(sweep, shard)
                tasks.start_soon(clear, shard)
                tasks.start_soon(trim, shard.budget)
                if certificates is not None:
                    tasks.start_soon(certificates.watch, server.peers.renew)
                if identities is not None:
                    tasks.start_soon(identities.run)
                tasks.start_soon(quotas.run)
                if audit is not None:
                    tasks.start_soon(audit.run)
                if shard.ownership is not None:
                    tasks.start_soon(shard.ownership.run)
                info = ShardInfo(server.address, spec.device)
                yield RunningShard(info, sorted(models), shard, server, warming, compiling, tasks, admin)
                tasks.cancel_scope.cancel()


@asynccontextmanager
async def _open_audit(spec: ShardSpec) -> AsyncIterator[AuditLog | None]:
    if spec.audit_log is None:
        yield None
        return
    opened = open_audit_log(spec.audit_log, spec.number)
    log = await anyio.to_thread.run_sync(opened.__enter__)
    try:
        yield log
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(opened.__exit__, None, None, None)


@asynccontextmanager
async def _prepare(
    spec: ShardSpec, recorder: Recorder
) -> AsyncIterator[tuple[Mapping[str, Model], Engine, SqlMemoryStore | None, int]]:
    models, engine, store, bank_bytes = await anyio.to_thread.run_sync(_open, spec, recorder)
    try:
        yield models, engine, store, bank_bytes
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_close, engine, store)


def _open(spec: ShardSpec, recorder: Recorder) -> tuple[Mapping[str, Model], Engine, SqlMemoryStore | None, int]:
    """Read the files and take the memory that a shard needs: not on the event loop."""
    torch.set_num_threads(spec.threads)
    models = load_models(spec.models, device=device_of(spec.device))
    bank_bytes = spec.bank_bytes or _share_banks(spec, len(models))
    residency = Residency(precision=spec.bank_dtype, folder=_make_spill_folder(spec))
    artifacts = None if spec.artifacts is None or not spec.durable else Artifacts(spec.artifacts, recorder=recorder)
    store = _open_memory_store(spec, artifacts, recorder) if spec.durable else None
    if store is not None and artifacts is not None:
        archive_models(model_paths(spec.models), artifacts)
        models = {**models, **load_former_models(store, artifacts, models.values(), device_of(spec.device))}
    with explain_out_of_memory(bank_bytes, models=len(models)):
        engine = Engine(
            models.values(),
            bank_bytes=bank_bytes,
            residency=residency,
            store=store,
            checked=spec.check_banks,
            part_s=spec.batch_s / CONTENTION_PART,
            recorder=recorder,
        )
    return models, engine, store, bank_bytes


def _share_banks(spec: ShardSpec, models: int) -> int:
    """Return the bytes for the bank of each model; those of former models, which are few, are not counted."""
    if spec.device == "cuda":
        return share_memory(torch.cuda.mem_get_info(device_of(spec.device))[0], banks=models)
    return share_memory(free_memory(spec.sharing), banks=models * spec.sharing)


def _open_memory_store(spec: ShardSpec, artifacts: Artifacts | None, recorder: Recorder) -> SqlMemoryStore:
    """Open two connections: a look must not wait for a commit, which may wait for that of another shard."""
    address = store_address(spec)
    looks = open_store(address, busy_ms=LOOKS_BUSY_MS)
    ownership = Claims(looks, Incarnation.here(f"shard-{spec.number}"), lease_s=spec.lease_s)
    return SqlMemoryStore(open_store(address), ownership, artifacts=artifacts, recorder=recorder)


def _close(engine: Engine, store: SqlMemoryStore | None) -> None:
    """Let others have at once what was this shard's."""
    engine.close()
    if store is None:
        return
    try:
        store.ownership.release(store.ownership.held)
    except StoreFailed as error:
        logger.warning("others have to wait for the end of this shard's lease: %s", error)
    store.ownership.close()
    store.close()


def _make_spill_folder(spec: ShardSpec) -> Path | None:
    """Make the shard's part of the artifact store now: that it cannot be made is said before anybody needs it."""
    if not isinstance(spec.artifacts, Path):
        return None
    folder = spec.artifacts / f"shard-{spec.number}"
    try:
        make_folder(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SettingsError(
            f"artifact_store: saw {str(spec.artifacts)!r}, where nothing can be written: {error}; "
            "expected a folder of this user's, or where one can be made"
        ) from error
    return folder


def compute_limits(models: Mapping[str, Model]) -> Limits:
    """Return the bounds under which the answer to a full frame fits in one message.

    Raises:
        SettingsError: a single pattern of some model does not.
    """
    message_bytes = Limits(frame_patterns=1).message_bytes
    fitting = {
        name: (message_bytes - message_bytes // 8) // (4 * model.layout.size + 64) for name, model in models.items()
    }
    if tight := [name for name, patterns in fitting.items() if patterns < 1]:
        raise SettingsError(f"models: a pattern of {tight[0]} is larger than a message of {message_bytes} bytes")
    return Limits(frame_patterns=min(FRAME_PATTERNS_LIMIT, *fitting.values()))
