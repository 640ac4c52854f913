"""The engine: one batched reading or writing loop over the pages of many memories."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from attractor_server.energy.eraser import erase
from attractor_server.energy.model import Model
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy, write
from attractor_server.engine.bank import Bank
from attractor_server.engine.batch import Batch, Lane, bucket, lanes_of, numpy_of
from attractor_server.engine.residency import Residency, bank_for
from attractor_server.engine.work import Deleted, Erased, Floats, Job, Operation, Outcome, Recalled, Recognized, Stored
from attractor_server.errors import MemoryNotFound, ReadDiverged, ServerError, WriteDiverged

logger = logging.getLogger(__name__)

CACHE_BYTES = 4 << 20
MEMORIES_LIMIT = 4096

Results: TypeAlias = Iterator[tuple[Job, Outcome | ServerError]]


def side_by_side(model: Model) -> int:
    """Memories in one program: on a CPU no more than whose fast weights stay in its cache through all steps."""
    return max(1, CACHE_BYTES // model.page_bytes) if model.device.type == "cpu" else MEMORIES_LIMIT


class Engine:
    """Computes jobs on one device. Not thread-safe: one thread calls `run`."""

    def __init__(self, models: Iterable[Model], *, bank_bytes: int, residency: Residency | None = None) -> None:
        """`bank_bytes` bounds the fast weights of each model that are on the device at the same time."""
        self._models: Mapping[str, Model] = {model.digest: model for model in models}
        self._banks = {
            digest: bank_for(model, limit_bytes=bank_bytes, residency=residency or Residency())
            for digest, model in self._models.items()
        }
        self._side_by_side = {
            digest: min(side_by_side(model), self._banks[digest].capacity) for digest, model in self._models.items()
        }
        self._programs: Mapping[Operation, Callable[[Model, Bank, Sequence[Lane]], Results]] = {
            Operation.STORE: self._store,
            Operation.ERASE: self._erase,
            Operation.QUERY: self._query,
            Operation.RECOGNIZE: self._recognize,
            Operation.DELETE: self._delete,
        }

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """An outcome or an error for each of these jobs of one program, in their order.

        Of one memory there may be several jobs that read, or a single one that writes.
        """
        operation, digest = jobs[0].operation, jobs[0].memory.model_digest
        outcomes: dict[Job, Outcome | ServerError] = {
            job: MemoryNotFound(f"memory {job.memory.name!r} was deleted while the request was waiting")
            for job in jobs
            if job.memory.deleted and operation is not Operation.DELETE
        }
        alive: dict[int, list[Lane]] = defaultdict(list)
        for lane in lanes_of(job for job in jobs if job not in outcomes):
            alive[bucket(lane.size)].append(lane)
        for lanes in alive.values():
            for start in range(0, len(lanes), self._side_by_side[digest]):
                part = lanes[start : start + self._side_by_side[digest]]
                outcomes.update(self._computed(operation, digest, part))
        return [outcomes[job] for job in jobs]

    def _computed(self, operation: Operation, digest: str, lanes: Sequence[Lane]) -> dict[Job, Outcome | ServerError]:
        """Lanes that fail do so alone: what other lanes of the batch have written stands, and must be answered."""
        bank = self._banks[digest]
        try:
            failed = {} if operation is Operation.DELETE else bank.bring([lane.page for lane in lanes])
            ready = [lane for lane in lanes if lane.page not in failed]
            outcomes = dict(self._programs[operation](self._models[digest], bank, ready)) if ready else {}
            return outcomes | {job: failed[lane.page] for lane in lanes if lane.page in failed for job in lane.jobs}
        except Exception:
            logger.exception("a %s over %d memories failed", operation.value, len(lanes))
            error = ServerError("the engine failed; the server's log says why")
            return {job: error for lane in lanes for job in lane.jobs}

    def _store(self, model: Model, bank: Bank, lanes: Sequence[Lane]) -> Results:
        batch = Batch(model, bank, lanes)
        stored = batch.column([lane.memory.patterns for lane in lanes])
        fast = write(model.network, model.parameters, batch.fast, batch.x, present=batch.present, stored=stored)
        return _applied(bank, lanes, fast)

    def _erase(self, model: Model, bank: Bank, lanes: Sequence[Lane]) -> Results:
        """Where nothing was ever stored there is nothing to compute."""
        empty, used = list[Lane](), list[Lane]()
        for lane in lanes:
            (used if any(page.written for page in lane.memory.pages) else empty).append(lane)
        if used:
            batch = Batch(model, bank, used)
            stored = batch.column([lane.memory.patterns for lane in used])
            fast = erase(model.network, model.parameters, batch.fast, batch.x, present=batch.present, stored=stored)
            yield from _applied(bank, used, fast)
        for lane in empty:
            yield lane.jobs[0], _count(lane.jobs[0])

    def _query(self, model: Model, bank: Bank, lanes: Sequence[Lane]) -> Results:
        batch = Batch(model, bank, lanes)
        first = lanes[0].jobs[0]
        reading = read(
            model.network,
            model.parameters,
            batch.fast,
            batch.x,
            hold=batch.hold,
            pull=batch.pull,
            steps=first.steps,
            trajectory=first.trajectory,
        )
        values = numpy_of(model.decode(reading.pattern))
        before, after, delta = map(numpy_of, (reading.energy_before, reading.energy_after, reading.delta_energy))
        iterates = None if reading.iterates is None else numpy_of(model.decode(reading.iterates))
        energies = None if reading.energies is None else numpy_of(reading.energies)
        for job, row, part in batch.places_of_jobs():
            recalled = Recalled(
                values=_held(job, values[row, part]),
                energy_before=before[row, part],
                energy_after=after[row, part],
                delta_energy=delta[row, part],
                steps=job.steps,
                iterates=None if iterates is None else _held(job, iterates[:, row, part]),
                energies=None if energies is None else energies[:, row, part],
            )
            finite = np.isfinite(recalled.values).all() and np.isfinite(recalled.energy_after).all()
            yield job, recalled if finite else ReadDiverged(_diverged(job, "reading"))

    def _recognize(self, model: Model, bank: Bank, lanes: Sequence[Lane]) -> Results:
        batch = Batch(model, bank, lanes)
        energy = numpy_of(model.network.energy(model.parameters.slow, batch.fast, batch.x))
        gaps = delta_energy(model.network, model.parameters, batch.fast, batch.x)
        stored = batch.column([lane.memory.patterns for lane in lanes])
        probability = None if model.calibration is None else numpy_of(model.calibration.probability(gaps, stored))
        delta = numpy_of(gaps)
        for job, row, part in batch.places_of_jobs():
            finite = np.isfinite(energy[row, part]).all()
            recognized = Recognized(
                energy=energy[row, part],
                delta_energy=delta[row, part],
                probability=None if probability is None else probability[row, part],
            )
            yield job, recognized if finite else ReadDiverged(_diverged(job, "reading"))

    def _delete(self, model: Model, bank: Bank, lanes: Sequence[Lane]) -> Results:
        for lane in lanes:
            for page in lane.memory.pages:
                bank.release(page)
            lane.memory.pages.clear()
            yield from ((job, Deleted()) for job in lane.jobs)


def _applied(bank: Bank, lanes: Sequence[Lane], fast: Mapping[str, torch.Tensor]) -> Results:
    """Publishes the new weights of lanes with one job each, those alone that are finite, and counts them."""
    finite = torch.stack([tensor.isfinite().flatten(1).all(1) for tensor in fast.values()]).all(0).tolist()
    rows = [row for row in range(len(lanes)) if finite[row]]
    pages = [lanes[row].page for row in rows]
    failed = bank.publish(pages, {name: tensor[rows] for name, tensor in fast.items()})
    for lane, ok in zip(lanes, finite, strict=False):
        job = lane.jobs[0]
        if not ok:
            yield job, WriteDiverged(_diverged(job, "erasing" if job.operation is Operation.ERASE else "writing"))
        elif lane.page in failed:
            yield job, failed[lane.page]
        else:
            lane.memory.pages[:] = [lane.page]
            yield job, _count(job)


def _count(job: Job) -> Stored | Erased:
    """Counts a store or an erase whose weights are published."""
    memory, erasing = job.memory, job.operation is Operation.ERASE
    memory.patterns = max(0, memory.patterns - job.size) if erasing else memory.patterns + job.size
    for page in memory.pages:
        page.patterns = memory.patterns
    memory.version += 1
    return (Erased if erasing else Stored)(version=memory.version, patterns=memory.patterns)


def _held(job: Job, values: Floats) -> Floats:  # (…, n, d)
    """The values, those held exactly as the cue has them: the way to network units and back may round."""
    if job.known is None or job.values is None or job.pull:
        return values
    return np.where(job.known, job.values, values)


def _diverged(job: Job, loop: str) -> str:
    return (
        f"the {loop} loop on memory {job.memory.name!r} left finite numbers and changed nothing: "
        "the values are far from those the model was trained on; check their scale"
    )
