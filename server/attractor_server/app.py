"""One shard put together: models, engine, batcher, and the gRPC server before them. No Ray here."""

import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import anyio
import anyio.to_thread
import torch

from attractor_server.energy.model import SUFFIX, Model, load_model
from attractor_server.engine.batcher import Batcher
from attractor_server.engine.engine import Engine
from attractor_server.engine.forms import Precision
from attractor_server.engine.residency import Residency
from attractor_server.engine.warming import Warming
from attractor_server.errors import SettingsError
from attractor_server.former import former, keep
from attractor_server.rpc.expiring import sweep
from attractor_server.rpc.server import Listening, Transport, listening
from attractor_server.rpc.shard import Limits, Shard
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.journal import Journal
from attractor_server.storage.opening import store_at
from attractor_server.topology import ShardInfo, Topology

FRAME_PATTERNS_LIMIT = 1024


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """All that a shard needs to be told. Travels to whichever process runs it."""

    number: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    advertise: str = "127.0.0.1"
    device: str = "cpu"
    threads: int = 1
    models: Path | None = None
    bank_bytes: int = 1 << 30
    bank_dtype: Precision = "float32"
    artifacts: Path | str | None = None
    """Folder, or address of a bucket, for large images of pages that are kept. In a folder also pages wait that have no
    room in the bank, below which each shard has its own; else in files without a name"""
    data: Path | None = None
    """Folder of the backend store, which shards of one machine share; None: nothing outlives the shard"""
    store_uri: str = field(default="", repr=False)
    """Address of a PostgreSQL database, which goes before the folder; may hold a password"""
    waiting_patterns: int = 16_384
    batch_patterns: int = 2048
    batch_s: float = 0.02
    """What a batch should take at most: requests of others wait for as long"""
    warm_up: bool = True
    """Programs run once before the shard serves"""
    transport: Transport = field(default_factory=Transport)


@dataclass(frozen=True)
class RunningShard:
    """A shard that answers."""

    info: ShardInfo
    models: Sequence[str]
    _shard: Shard
    _listening: Listening
    _warming: Warming

    @property
    def warm(self) -> bool:
        """Whether all its programs have been run."""
        return self._warming.done.is_set()

    @property
    def warm_up_s(self) -> Mapping[str, float]:
        """Seconds that it took to warm each model, as far as that is done."""
        return self._warming.took_s

    @property
    def epoch(self) -> int:
        """Of the topology that the shard knows; 0 if it has been told of none."""
        return self._shard.epoch

    async def learn(self, topology: Topology) -> None:
        """Tells the shard of the others, once it is warm; from the first time on it serves."""
        await self._warming.done.wait()
        self._shard.learn(topology)
        await self._listening.ready()

    async def drain(self, grace_s: float) -> bool:
        """Sends clients away and stops. Whether everything that was accepted is finished."""
        return await self._listening.drain(grace_s)


@asynccontextmanager
async def running_shard(spec: ShardSpec) -> AsyncIterator[RunningShard]:
    """A shard in this process and event loop, until the end of the block.

    Raises:
        SettingsError: the spec cannot be meant on this machine.
        ModelFileError: a model file is damaged, or of a newer format.
    """
    async with _prepared(spec) as (models, engine, journal):
        batcher = Batcher(
            engine, waiting_limit=spec.waiting_patterns, batch_limit=spec.batch_patterns, batch_s=spec.batch_s
        )
        warming = Warming(engine, models.values() if spec.warm_up else (), bank_bytes=spec.bank_bytes)
        shard = Shard(number=spec.number, models=models, batcher=batcher, limits=limits_for(models), journal=journal)
        async with (
            listening(
                shard, host=spec.host, port=spec.port, advertise=spec.advertise, transport=spec.transport
            ) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(batcher.run, warming.steps())
            tasks.start_soon(sweep, shard)
            yield RunningShard(ShardInfo(server.address, spec.device), sorted(models), shard, server, warming)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _prepared(spec: ShardSpec) -> AsyncIterator[tuple[Mapping[str, Model], Engine, Journal | None]]:
    models, engine, journal = await anyio.to_thread.run_sync(_opened, spec)
    try:
        yield models, engine, journal
    finally:
        if journal is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(journal.close)


def _opened(spec: ShardSpec) -> tuple[Mapping[str, Model], Engine, Journal | None]:
    """What reads files and takes memory: not for the event loop."""
    torch.set_num_threads(spec.threads)
    models = load_models(spec.models, device=device_of(spec.device))
    residency = Residency(precision=spec.bank_dtype, folder=_folder(spec))
    store = store_at(spec.store_uri or spec.data)
    artifacts = None if store is None or spec.artifacts is None else Artifacts(spec.artifacts)
    journal = None if store is None else Journal(store, owner=f"shard-{spec.number}", artifacts=artifacts)
    if journal is not None and artifacts is not None:
        keep(model_paths(spec.models), artifacts)
        models = {**models, **former(journal, artifacts, models.values(), device_of(spec.device))}
    engine = Engine(models.values(), bank_bytes=spec.bank_bytes, residency=residency, keeper=journal)
    return models, engine, journal


def _folder(spec: ShardSpec) -> Path | None:
    """The shard's part of the artifact store, made now: that it cannot be made is told before anybody needs it."""
    if not isinstance(spec.artifacts, Path):
        return None
    folder = spec.artifacts / f"shard-{spec.number}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SettingsError(
            f"artifact_store: saw {str(spec.artifacts)!r}, where nothing can be written: {error}; "
            "expected a folder of this user's, or where one can be made"
        ) from error
    return folder


def load_models(folder: Path | None, *, device: torch.device | str) -> Mapping[str, Model]:
    """The models that ship and those in the folder, by name; of two with the same name the folder's.

    Raises:
        SettingsError: there is no such folder, or no model at all.
        ModelFileError: a file is damaged, or of a newer format.
    """
    return {model.name: model for model in (load_model(path, device) for path in model_paths(folder))}


def model_paths(folder: Path | None) -> Sequence[Path]:
    """Files of the models that ship, then those in the folder.

    Raises:
        SettingsError: there is no such folder, or no model at all.
    """
    if folder is not None and not folder.is_dir():
        raise SettingsError(f"models: saw {str(folder)!r}, which is no folder; expected one with *{SUFFIX} files")
    shipped = Path(str(files("attractor_server"))) / "models"
    folders = [shipped] if folder is None else [shipped, folder]
    paths = [path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))]
    if not paths:
        raise SettingsError(f"models: saw no *{SUFFIX} file in {', '.join(map(str, folders))}; expected at least one")
    return paths


def limits_for(models: Mapping[str, Model]) -> Limits:
    """Bounds under which the answer to a full frame fits in one message.

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


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        SettingsError: this machine has none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device: saw 'cuda', and PyTorch finds no GPU in this process; expected 'cpu'")
    return torch.device(name)


def threads_for(asked: int, shards: int) -> int:
    """Threads of each shard: as asked, or its part of the cores."""
    return asked or max(1, len(os.sched_getaffinity(0)) // shards)
