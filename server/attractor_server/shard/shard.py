"""One shard as its servicers see it: models, memories, the batcher, and the other shards."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from attractor_proto.names import MESSAGE_LIMIT_BYTES
from attractor_server.errors import (
    CannotErase,
    CannotPull,
    ModelNotFound,
    MovedAway,
    NotKept,
    OwnerChanged,
    OwnerUnreachable,
    Unavailable,
    quote,
)
from attractor_server.identity.audit import AuditLog
from attractor_server.identity.identities import Identities
from attractor_server.identity.quotas import Quotas
from attractor_server.identity.rates import Rates
from attractor_server.memories.catalog import Catalog
from attractor_server.memories.memory import MemoryRecord, record_of
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.names import check_name
from attractor_server.memories.settings import RecallBy
from attractor_server.recorder import SILENT, Recorder
from attractor_server.scheduling.batcher import Batcher
from attractor_server.scheduling.jobs import Job, Operation
from attractor_server.shard.budget import Budget
from attractor_server.shard.directory import MemoryDirectory
from attractor_server.shard.occupancy import Occupancy
from attractor_server.shard.ownership import SlotOwnership
from attractor_server.sharding.topology import ShardInfo, Topology
from attractor_server.storage.accounts import Accounts
from attractor_server.storage.memory_store import SqlMemoryStore

ARRIVAL_S = 0.5

Resize: TypeAlias = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of what clients may ask of one shard at a time."""

    frame_patterns: int
    """Patterns in one frame or unary call"""
    session_patterns: int = 4096
    """Patterns of one session in the server, answers and iterates included"""
    session_handles: int = 65_536
    message_bytes: int = MESSAGE_LIMIT_BYTES
    request_bytes: int = 1 << 30
    """Bytes that all calls together may hold"""


class Shard:
    """The state that all servicers of one shard share. Lives on one event loop."""

    def __init__(  # noqa: PLR0913
        self,
        *,
        number: int,
        models: Mapping[str, ModelCard],
        batcher: Batcher,
        limits: Limits,
        store: SqlMemoryStore | None = None,
        recorder: Recorder = SILENT,
    ) -> None:
        """Without a store no memory outlives the shard."""
        self.number = number
        self.models = models
        self.batcher = batcher
        self.recorder = recorder
        self.limits = limits
        self.budget = Budget(limits.request_bytes)
        names = {model.digest: name for name, model in models.items()}
        self.memories: MemoryDirectory = MemoryDirectory(
            Catalog(), store, lambda stored: _rename(record_of(stored), names), digests=names
        )
        self.durable = store is not None
        self.resize: Resize | None = None
        """Takes the number of shards that there shall be; None where it cannot change"""
        self.ownership = (
            None if store is None else SlotOwnership(store.ownership, self.memories, batcher, recorder=recorder)
        )
        self.draining = anyio.Event()
        self._topology: Topology | None = None
        self.secret = ""
        self.recall: RecallBy = "posterior"
        """What answers queries of memories that are made without that setting"""
        """What only shards of this server know, where it has no store"""
        self._store_secret = ""
        self.identities: Identities | None = None
        """Who is known; None where everybody may do everything"""
        self.audit: AuditLog | None = None
        self.accounts: Accounts | None = None if store is None else store.accounts
        """Of what namespaces keep that have a quota"""
        self.follow_quotas(Quotas())
        self.followed = 0
        """Epoch of the topology whose groups this shard has claimed, as far as they were free"""

    def follow_quotas(self, quotas: Quotas) -> None:
        """Let namespaces keep and ask for no more than that."""
        self.rates = Rates(quotas, lambda: 1 if self._topology is None else len(self._topology.shards))
        self.occupancy = Occupancy(quotas)
        quotas.on_limit = self.recorder.record_limit
        if self.accounts is not None:
            self.accounts.quotas = quotas

    @property
    def topology(self) -> Topology:
        """Newest topology that this shard was given.

        Raises:
            Unavailable: it has not been told of any yet.
        """
        if self._topology is None:
            raise Unavailable("this shard is starting and does not know the others yet; try again in a moment")
        return self._topology

    @property
    def newest(self) -> Topology | None:
        """Newest topology that this shard was given, if any."""
        return self._topology

    async def read_secret(self) -> str:
        """Return what only shards of this server know: of those with a store, whoever can read that.

        Raises:
            StoreFailed: the store cannot be read.
        """
        if not self.durable:
            return self.secret
        if not self._store_secret:
            self._store_secret = await self.memories.ask(lambda store: store.secret())
        return self._store_secret

    def learn(self, topology: Topology) -> None:
        """Take over a topology, unless a newer one is known."""
        if self._topology is None or topology.epoch > self._topology.epoch:
            self._topology = topology

    async def follow(self, *, seize: Collection[int] = ()) -> None:
        """Claim and release in the store what the newest topology says.

        Raises:
            StoreFailed: not all was claimed or released.
        """
        newest = self.topology
        if self.ownership is not None:
            await self.ownership.follow(newest.groups(self.number), seize=seize)
        self.followed = max(self.followed, newest.epoch)

    def owner(self, name: str, *, field: str = "name") -> ShardInfo | None:
        """Return the shard that owns that memory, or None if it is this one.

        Raises:
            InvalidRequest: no memory can have that name.
            OwnerChanged: it is this one, which does not serve that memory yet, or no longer.
            StoreDamaged: so it is, and cannot find out any more.
        """
        check_name(name, field=field)
        number = self.topology.owner(name)
        if number != self.number:
            return self.topology.shards[number]
        if self.ownership is not None and not self.ownership.serves(name):
            raise self.ownership.damage or OwnerChanged(
                f"memory {name!r} is about to change its shard; try again in a moment"
            )
        return None

    async def wait_for_arrival(self, name: str) -> None:
        """Wait, not for long, for a memory that this shard is to own and does not serve yet.

        Raises:
            OwnerChanged: it did not come.
        """
        with anyio.move_on_after(ARRIVAL_S):
            while self.ownership is not None and not self.ownership.serves(name):
                await self.ownership.changes.wait()
        if self.owner(name) is not None:
            raise OwnerChanged(f"memory {name!r} went to another shard; try again in a moment")

    def model(self, name: str) -> ModelCard:
        """Return the model of that name.

        Raises:
            ModelNotFound: the server has none.
        """
        if (model := self.models.get(name)) is None:
            raise ModelNotFound(f"model: saw {quote(name)}; expected one of {sorted(self.models)}")
        return model

    def check(self, operation: Operation, model: ModelCard, *, pull: bool) -> None:
        """Refuse what memories of that model cannot do.

        Raises:
            CannotErase: an erase, and the model has not learned it.
            CannotPull: a query that pulls, and the model has not learned it.
        """
        if operation is Operation.ERASE and not (model.erases or self.durable):  # kept patterns need no eraser
            raise CannotErase(
                f"model {model.name} cannot erase; use one that does (its `erases` is true), or make the memory anew"
            )
        if pull and not model.pulls:
            raise CannotPull(
                f"model {model.name} cannot pull known entries towards the cue; hold them, "
                "or use a model that does (its `pulls` is true)"
            )

    def check_quota(self, job: Job) -> None:
        """Refuse a store that its namespace had no room for a moment ago, before it is computed.

        Raises:
            QuotaExceeded: so it was.
        """
        grows = job.operation is Operation.STORE and job.on_conflict == "append" and not job.looks_back
        if self.accounts is None or not grows or job.memory.settings.when_full == "forget" or job.values is None:
            return
        self.accounts.check_known(job.memory.name, items=job.size, size_bytes=job.values.nbytes)

    def check_kept(self, field: str) -> None:
        """Refuse what needs patterns that are kept, if a field asks for it.

        Raises:
            NotKept: this shard keeps none.
        """
        if field and not self.durable:
            raise NotKept(f"{field}: this server keeps no patterns: start it without `--durable no`")

    def memory_moved_error(self, memory: MemoryRecord) -> OwnerUnreachable:
        """Return the error of a request whose handle, or way, led to the memory's former owner."""
        told = f"memory {memory.name!r} moved to another shard; open it anew"
        if (number := self.topology.owner(memory.name)) == self.number:
            return OwnerUnreachable(told)  # and back
        return MovedAway(told, route=self.topology.shards[number].address)

    def check_here(self, memory: MemoryRecord) -> None:
        """Refuse a request for a memory that is another shard's now.

        Raises:
            MovedAway: so it is.
        """
        if memory.moved:
            raise self.memory_moved_error(memory)


def _rename(record: MemoryRecord, names: Mapping[str, str]) -> MemoryRecord:
    """Give the record the name that the memory's model is served by, which may be another model's by now."""
    record.model = names.get(record.model_digest, record.model)
    return record
