"""One shard as its servicers see it: models, memories, the batcher, and the other shards."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import anyio

from attractor_proto.names import NAME_LIMIT, is_valid_name
from attractor_server.engine.batcher import Batcher
from attractor_server.engine.work import Answer, Job, Memories, Operation, Outcome, Record, Stored
from attractor_server.errors import InvalidRequest, ModelNotFound, Unavailable
from attractor_server.fields import Layout
from attractor_server.storage.catalog import Catalog
from attractor_server.topology import ShardInfo, Topology


class ModelCard(Protocol):
    """What servicers need to know of a model."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def layout(self) -> Layout: ...  # noqa: D102
    @property
    def capacity(self) -> int: ...  # noqa: D102
    @property
    def record(self) -> Mapping[str, object]: ...  # noqa: D102
    @property
    def page_bytes(self) -> int: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102


class Shard:
    """The state that all servicers of one shard share. Lives on one event loop."""

    def __init__(self, *, number: int, models: Mapping[str, ModelCard], batcher: Batcher, session_limit: int) -> None:
        """`session_limit` bounds the patterns that one session may have in the server, answers included."""
        self.number = number
        self.models = models
        self.batcher = batcher
        self.session_limit = session_limit
        self.memories: Memories = Catalog()
        self.draining = anyio.Event()
        self._topology: Topology | None = None

    @property
    def topology(self) -> Topology:
        """The newest topology this shard was told.

        Raises:
            Unavailable: it has not been told of any yet.
        """
        if self._topology is None:
            raise Unavailable("this shard is starting and does not know the others yet; try again in a moment")
        return self._topology

    def learn(self, topology: Topology) -> None:
        """Takes over a topology, unless a newer one is known."""
        if self._topology is None or topology.epoch > self._topology.epoch:
            self._topology = topology

    def owner(self, name: str) -> ShardInfo | None:
        """The shard that owns that memory, or None if it is this one.

        Raises:
            InvalidRequest: no memory can have that name.
        """
        check_name(name)
        number = self.topology.owner(name)
        return None if number == self.number else self.topology.shards[number]

    def model(self, name: str) -> ModelCard:
        """The model of that name.

        Raises:
            ModelNotFound: the server has none.
        """
        if (model := self.models.get(name)) is None:
            raise ModelNotFound(f"model: saw {name!r}; expected one of {sorted(self.models)}")
        return model

    def job(self, operation: Operation, memory: Record) -> Job:
        """An empty job, to be filled in and handed to the batcher."""
        return Job(operation=operation, memory=memory, future=asyncio.get_running_loop().create_future())

    def counted(self, job: Job, client_id: str, sequence: int) -> Answer | None:
        """The first answer to that store, or None after entering the job as its first sending.

        A job that fails is struck from the ledger, so that a repeat is tried afresh.

        Raises:
            SequenceForgotten: the number is too old to tell.
        """
        if not sequence:
            return None
        ledger = job.memory.ledger(client_id)
        if (first := ledger.find(sequence)) is not None:
            return first
        ledger.enter(sequence, job.future)

        def settle(future: "asyncio.Future[Outcome]") -> None:
            if future.cancelled() or future.exception() is not None:
                ledger.strike(sequence)

        job.future.add_done_callback(settle)
        return None


def check_name(name: str, *, field: str = "name") -> None:
    """Refuses what cannot be a memory's name.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not is_valid_name(name):
        seen = name if len(name) <= 2 * NAME_LIMIT else f"{name[:32]}… ({len(name)} characters)"
        raise InvalidRequest.of(
            field,
            f"saw {seen!r}; expected 1 to {NAME_LIMIT} characters: letters, digits, '.', '_', '-' "
            "in segments separated by single '/'",
        )


def applied(outcome: Outcome) -> Stored:
    """The outcome of a store."""
    assert isinstance(outcome, Stored)
    return outcome
