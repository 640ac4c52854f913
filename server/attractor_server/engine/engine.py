"""The engine: one batched reading or writing loop over the pages of many memories."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy, write
from attractor_server.engine.bank import INITIAL, Bank
from attractor_server.engine.work import Deleted, Floats, Job, Operation, Outcome, Recalled, Recognized, Stored
from attractor_server.errors import BankFull, MemoryNotFound, ReadDiverged, ServerError, WriteDiverged


def bucket(count: int) -> int:
    """The power of two that a count is padded to, so that programs meet few shapes."""
    return 1 << (count - 1).bit_length()


class Engine:
    """Computes jobs on one device. Not thread-safe: one thread calls `run`."""

    def __init__(self, models: Iterable[Model], *, bank_bytes: int) -> None:
        """`bank_bytes` bounds the fast weights of each model."""
        self._models: Mapping[str, Model] = {model.digest: model for model in models}
        self._banks = {
            digest: Bank(model.parameters.initial, limit_bytes=bank_bytes) for digest, model in self._models.items()
        }

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """An outcome or an error for each of these jobs of one program, in their order."""
        outcomes: dict[Job, Outcome | ServerError] = {}
        alive: dict[int, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.memory.deleted and job.operation is not Operation.DELETE:
                outcomes[job] = MemoryNotFound(f"memory {job.memory.name!r} was deleted while the request was waiting")
            else:
                alive[bucket(job.size)].append(job)
        with torch.no_grad():
            for group in alive.values():
                outcomes.update(zip(group, self._program(group[0])(group), strict=True))
        return [outcomes[job] for job in jobs]

    def _program(self, job: Job) -> Callable[[Sequence[Job]], Sequence[Outcome | ServerError]]:
        return {
            Operation.STORE: self._store,
            Operation.QUERY: self._query,
            Operation.RECOGNIZE: self._recognize,
            Operation.DELETE: self._delete,
        }[job.operation]

    def _store(self, jobs: Sequence[Job]) -> Sequence[Outcome | ServerError]:
        model, bank, batch = self._gather(jobs)
        stored = torch.tensor(_padded([job.memory.patterns for job in jobs], len(batch.places)), device=model.device)
        fast = write(model.network, model.parameters, batch.fast, batch.x, present=batch.present, stored=stored)
        finite = torch.stack([tensor.isfinite().flatten(1).all(1) for tensor in fast.values()]).all(0).tolist()
        outcomes: list[Outcome | ServerError] = []
        rows: list[int] = []
        for row, job in enumerate(jobs):
            outcome = _commit(job, bank, finite=finite[row])
            outcomes.append(outcome)
            if isinstance(outcome, Stored):
                rows.append(row)
        if rows:
            places = torch.tensor([jobs[row].memory.page for row in rows], device=model.device)
            bank.publish(places, {name: tensor[rows] for name, tensor in fast.items()})
        return outcomes

    def _query(self, jobs: Sequence[Job]) -> Sequence[Outcome | ServerError]:
        model, _, batch = self._gather(jobs)
        steps, trajectory = jobs[0].steps or model.steps, jobs[0].trajectory
        reading = read(
            model.network,
            model.parameters,
            batch.fast,
            batch.x,
            known=batch.known,
            steps=steps,
            trajectory=trajectory,
        )
        values = _numpy(model.decode(reading.pattern))
        before, after, delta = map(_numpy, (reading.energy_before, reading.energy_after, reading.delta_energy))
        iterates = None if reading.iterates is None else _numpy(model.decode(reading.iterates))
        energies = None if reading.energies is None else _numpy(reading.energies)
        outcomes: list[Outcome | ServerError] = []
        for row, job in enumerate(jobs):
            n = job.size
            recalled = Recalled(
                values=values[row, :n],
                energy_before=before[row, :n],
                energy_after=after[row, :n],
                delta_energy=delta[row, :n],
                steps=steps,
                iterates=None if iterates is None else iterates[:, row, :n],
                energies=None if energies is None else energies[:, row, :n],
            )
            finite = np.isfinite(recalled.values).all() and np.isfinite(recalled.energy_after).all()
            outcomes.append(recalled if finite else ReadDiverged(_diverged(job, "reading")))
        return outcomes

    def _recognize(self, jobs: Sequence[Job]) -> Sequence[Outcome | ServerError]:
        model, _, batch = self._gather(jobs)
        energy = _numpy(model.network.energy(model.parameters.slow, batch.fast, batch.x))
        delta = _numpy(delta_energy(model.network, model.parameters, batch.fast, batch.x))
        return [
            Recognized(energy=energy[row, : job.size], delta_energy=delta[row, : job.size])
            for row, job in enumerate(jobs)
        ]

    def _delete(self, jobs: Sequence[Job]) -> Sequence[Outcome | ServerError]:
        for job in jobs:
            if job.memory.page != INITIAL:
                self._banks[job.memory.model_digest].release(job.memory.page)
                job.memory.page = INITIAL
        return [Deleted() for _ in jobs]

    def _gather(self, jobs: Sequence[Job]) -> tuple[Model, Bank, "Batch"]:
        digest = jobs[0].memory.model_digest
        return self._models[digest], self._banks[digest], Batch(self._models[digest], self._banks[digest], jobs)


class Batch:
    """Jobs side by side, padded to powers of two in memories and in patterns."""

    def __init__(self, model: Model, bank: Bank, jobs: Sequence[Job]) -> None:
        shape = (bucket(len(jobs)), bucket(max(job.size for job in jobs)))
        values = np.zeros((*shape, model.layout.size), np.float32)
        present = np.zeros(shape, np.bool_)
        for row, job in enumerate(jobs):
            values[row, : job.size] = job.values
            present[row, : job.size] = True
        device = model.device
        self.places = torch.tensor(_padded([job.memory.page for job in jobs], shape[0]), device=device)
        self.fast = bank.gather(self.places)
        self.x = model.encode(torch.from_numpy(values).to(device))  # (memories, patterns, d)
        self.present = torch.from_numpy(present).to(device)  # (memories, patterns)
        self.known = self._known(jobs, values.shape, device)  # (memories, patterns, d) or None

    @staticmethod
    def _known(jobs: Sequence[Job], shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        if all(job.known is None for job in jobs):
            return None
        known = np.zeros(shape, np.bool_)
        for row, job in enumerate(jobs):
            if job.known is not None:
                known[row, : job.size] = job.known
        return torch.from_numpy(known).to(device)


def _commit(job: Job, bank: Bank, *, finite: bool) -> Stored | ServerError:
    """Counts the store, and gives the memory a place of its own at its first; changes nothing if it must fail."""
    if not finite:
        return WriteDiverged(_diverged(job, "writing"))
    try:
        place = bank.take() if job.memory.page == INITIAL else job.memory.page
    except BankFull as error:
        return error
    job.memory.page = place
    job.memory.patterns += job.size
    job.memory.version += 1
    return Stored(version=job.memory.version, patterns=job.memory.patterns)


def _diverged(job: Job, loop: str) -> str:
    return (
        f"the {loop} loop on memory {job.memory.name!r} left finite numbers and changed nothing: "
        "the values are far from those the model was trained on; check their scale"
    )


def _padded(values: list[int], length: int) -> list[int]:
    return values + [0] * (length - len(values))


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
