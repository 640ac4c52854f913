"""Jobs side by side as tensors: a row for each memory, its jobs one after another in it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.engine.bank import Bank
from attractor_server.engine.page import Page
from attractor_server.engine.work import Floats, Job, Record


@dataclass(frozen=True, eq=False)
class Lane:
    """The jobs of one memory in a batch."""

    memory: Record
    page: Page
    """The one that is read and written: a new one where the memory has none"""
    jobs: list[Job] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Patterns in all its jobs."""
        return sum(job.size for job in self.jobs)

    @property
    def parts(self) -> Iterator[tuple[Job, slice]]:
        """Each job with its place in the lane's row."""
        start = 0
        for job in self.jobs:
            yield job, slice(start, start + job.size)
            start += job.size


def lanes_of(jobs: Iterable[Job]) -> Sequence[Lane]:
    """The jobs by memory, so that a page is gathered once for all of them."""
    lanes: dict[Record, Lane] = {}
    for job in jobs:
        if (lane := lanes.get(memory := job.memory)) is None:
            lane = lanes[memory] = Lane(memory, memory.pages[-1] if memory.pages else Page())
        lane.jobs.append(job)
    return list(lanes.values())


def bucket(count: int) -> int:
    """The power of two that a count is padded to, so that programs meet few shapes."""
    return 1 << (count - 1).bit_length()


class Batch:
    """Lanes on the device, padded to powers of two in memories and in patterns."""

    def __init__(self, model: Model, bank: Bank, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._device = model.device
        shape = (bucket(len(lanes)), bucket(max(lane.size for lane in lanes)))
        values = np.zeros((*shape, model.layout.size), np.float32)
        present = np.zeros(shape, np.bool_)
        for job, row, part in self.places_of_jobs():
            values[row, part] = job.values
            present[row, part] = True
        given = torch.from_numpy(values).to(self._device)
        self.x = model.encode(given)
        """(memories, patterns, d), in network units"""
        self.present = torch.from_numpy(present).to(self._device)
        """(memories, patterns)"""
        known = self._known(values.shape)
        pull = lanes[0].jobs[0].pull
        self.hold = None if known is None or pull else model.hold(given, known)
        """Puts what is known back into any x; None where nothing is held"""
        self.pull = model.pull(given, known) if known is not None and pull else None
        """What the proximity term descends by towards what is known; None where nothing is pulled"""
        padding = [Page()] * (shape[0] - len(lanes))
        self.fast = bank.gather(bank.enter([*(lane.page for lane in lanes), *padding]))
        """Each (memories, *shape)"""

    def column(self, values: list[int]) -> Tensor:
        """One number a lane, padded with zeros: (memories,) int64."""
        return torch.tensor(values + [0] * (bucket(len(values)) - len(values)), device=self._device)

    def places_of_jobs(self) -> Iterator[tuple[Job, int, slice]]:
        """Each job with its row and its place in that."""
        for row, lane in enumerate(self._lanes):
            for job, part in lane.parts:
                yield job, row, part

    def _known(self, shape: tuple[int, ...]) -> Tensor | None:
        """(memories, patterns, values) bool, or None where nothing is known."""
        if all(job.known is None for lane in self._lanes for job in lane.jobs):
            return None
        known = np.zeros(shape, np.bool_)
        for job, row, part in self.places_of_jobs():
            if job.known is not None:
                known[row, part] = job.known
        return torch.from_numpy(known).to(self._device)


def numpy_of(tensor: Tensor) -> Floats:
    """The values as float32 on the host."""
    array: Floats = tensor.float().cpu().numpy()
    return array
