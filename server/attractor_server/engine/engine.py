"""The engine: one batched loop over the pages of many memories."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from attractor_server.energy.model import Model
from attractor_server.engine.batch import Lane, Loaded, Results, lanes_of
from attractor_server.engine.erasing import erase
from attractor_server.engine.faults import fault, gone
from attractor_server.engine.keeper import Keeper
from attractor_server.engine.kept import KeptPatterns
from attractor_server.engine.reading import query, recognize
from attractor_server.engine.residency import Residency, bank_for
from attractor_server.engine.restoring import restored
from attractor_server.engine.tending import Tending
from attractor_server.engine.work import Deleted, Job, Operation, Outcome, Record, Tended
from attractor_server.engine.writing import store
from attractor_server.errors import ServerError

PROGRAMS: Mapping[Operation, Callable[[Loaded, Sequence[Lane]], Results]] = {
    Operation.STORE: store,
    Operation.ERASE: erase,
    Operation.QUERY: query,
    Operation.RECOGNIZE: recognize,
}


class Engine:
    """Computes jobs on one device. Not thread-safe: one thread calls `run`."""

    def __init__(
        self,
        models: Iterable[Model],
        *,
        bank_bytes: int,
        residency: Residency | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`bank_bytes` bounds the fast weights of each model that are on the device at the same time.

        With a `keeper` memories that have an id there outlive the engine.
        """
        residency = residency or Residency()
        self._keeper = keeper
        kept = None if keeper is None else KeptPatterns(keeper)
        self._loaded: Mapping[str, Loaded] = {
            model.digest: Loaded(
                model, *bank_for(model, limit_bytes=bank_bytes, residency=residency, keeper=keeper), keeper, kept
            )
            for model in models
        }
        self._tending = Tending(keeper, self._loaded)

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """An outcome or an error for each of these jobs of one program, in their order.

        Of one memory there may be several jobs that read, several stores, or a single erase or deletion. A job that is
        Unfinished has to come again, before any other of its memory.
        """
        operation = jobs[0].operation
        if operation is Operation.DELETE:
            return [self._delete(job) for job in jobs]
        if operation is Operation.LEAVE:
            return [self._leave(job.memory) for job in jobs]
        if operation is Operation.TEND:
            return [self._tending.run(job) for job in jobs]
        outcomes: dict[Job, Outcome | ServerError] = {job: gone(job.memory) for job in jobs if job.memory.deleted}
        loaded = self._loaded[jobs[0].memory.model_digest]
        outcomes |= restored(loaded, [job for job in jobs if not job.memory.at_hand and job not in outcomes])
        lanes = lanes_of(job for job in jobs if job not in outcomes)
        try:
            outcomes.update(PROGRAMS[operation](loaded, lanes))
        except Exception as error:  # what was answered before stands
            failure = fault(error, operation.value, len(lanes))
            return [outcomes.get(job, failure) for job in jobs]
        return [outcomes[job] for job in jobs]

    def _delete(self, job: Job) -> Outcome | ServerError:
        """Frees the places of all pages, and has the backend store forget the memory, whose model may not be served."""
        memory = job.memory
        if job.if_expired and (memory.expires_s is None or memory.expires_s > time.time()):
            return Tended()
        self._free(memory)
        try:
            if self._keeper is not None and memory.id:
                self._keeper.delete(memory.id, call=job.call)
        except ServerError as error:
            memory.at_hand = False
            return error
        if job.if_expired:  # else it was taken out of the catalog before
            memory.deleted = True
        return Deleted()

    def _leave(self, memory: Record) -> Outcome:
        """Frees the places of all pages of a memory that another shard will have; the store keeps it."""
        self._free(memory)
        memory.deleted = True
        return Deleted()

    def _free(self, memory: Record) -> None:
        if (loaded := self._loaded.get(memory.model_digest)) is not None:
            for page in memory.pages:
                loaded.bank.release(page)
        memory.pages.clear()
