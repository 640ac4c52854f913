"""Jobs side by side as tensors: a row for each page, in it the patterns that concern it."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_server.energy.frame import Framing
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine import compute
from attractor_server.engine.pages.bank import Bank
from attractor_server.engine.pages.kept_views import KeptViews
from attractor_server.engine.pages.pattern_cache import PatternCache
from attractor_server.engine.pages.spill import SpillTier
from attractor_server.errors import ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Floats, Outcome
from attractor_server.memories.page import Page
from attractor_server.memories.store import MemoryStore
from attractor_server.recorder import SILENT, Recorder
from attractor_server.scheduling.jobs import Job

CACHE_BYTES = 4 << 20

PAGES_LIMIT = 4096

IN_PLACE_LIMIT = 1024
"""Pages in one program that reads them where they lie"""

PART_READS = 64
"""Patterns in one program of what is done in parts"""

PART_LOOKS = 4096
"""Energies in one program there: pages times patterns"""

PART_BYTES = 1 << 20
"""Weights of pages that are written to the store together there, about"""

Results: TypeAlias = Generator[tuple[Job, Outcome | ServerError] | None, None, None]
"""Answers as they come; None where others can have their turn"""

ItemType = TypeVar("ItemType")

Made = TypeVar("Made")

Stops: TypeAlias = Generator[None, None, Made]
"""Makes something, with stops where others can have their turn"""

Scalar = TypeVar("Scalar", np.float32, np.bool_)


@dataclass(frozen=True, eq=False)
class MemoryBatch:
    """The jobs of one memory in a batch."""

    memory: MemoryRecord
    jobs: list[Job] = field(default_factory=list)

    @property
    def cut(self) -> bool:
        """Whether they are done in parts."""
        return self.jobs[0].cut

    @property
    def values(self) -> Floats:
        """The patterns of all its jobs (n, d), in user units."""
        return concatenate([job.values for job in self.jobs if job.values is not None])


@dataclass(frozen=True, eq=False)
class ModelState:
    """A model, the bank of its pages, and what keeps them."""

    model: Model
    bank: Bank
    spill: SpillTier
    store: MemoryStore | None = None
    """None: nothing outlives this process"""
    patterns: PatternCache | None = None
    """Of that store"""
    views: KeptViews = field(default_factory=lambda: KeptViews(0))
    """What a posterior compares"""
    recorder: Recorder = SILENT

    def compares(self, job: Job) -> bool:
        """Whether kept patterns take part in the job's answer."""
        memory = job.memory
        if self.model.posterior is None or self.patterns is None or not (memory.id and memory.patterns):
            return False
        if not memory.settings.keeps_all:
            return False
        return memory.settings.recall == "posterior" if job.kept is None else job.kept

    @property
    def limit(self) -> int:
        """Pages in one program: on a CPU no more than whose fast weights stay in its cache through all steps."""
        return min(count_side_by_side(self.model), self.bank.capacity)

    @property
    def part_limit(self) -> int:
        """Pages that are written together in what is done in parts."""
        return max(1, min(self.limit, PART_BYTES // self.model.weights_bytes))

    def limit_reads(self, jobs: Iterable[Job]) -> int:
        """Return the most pages in one program that reads cues of these jobs: in-place reads need not fit the cache."""
        in_place = self.in_place_tensors is not None and not any(job.trajectory or job.pull for job in jobs)
        return min(IN_PLACE_LIMIT, self.bank.capacity) if in_place else self.limit

    @property
    def in_place_tensors(self) -> Tensors | None:
        """The bank's tensors, where the model's pages can be read in place."""
        return self.bank.tensors if compute.can_read_in_place(self.model) else None

    def find_frames(self, framed: bool, pages: Tensors, places: Tensor | None = None) -> Framing | None:
        """Return the frames among the tensors of pages, or of a bank; None where they are not `framed`."""
        return compute.find_frames(self.model, pages, places) if framed else None

    def enter_frames(self, framed: bool, x: Tensor, pages: Tensors, places: Tensor | None = None) -> Tensor:
        """Bring prepared cues (pages, patterns, entries) into network units; without frames they are in them."""
        return self.model.transform.whiten(x, self.find_frames(framed, pages, places)) if framed else x

    def count_rows(self, count: int) -> int:
        """Return how many pages so many are padded to: few shapes are captured on a GPU, and on a CPU none."""
        return count if self.model.device.type == "cpu" else bucket(count)

    def pad(self, counts: Sequence[int]) -> "PaddedBatch":
        """Make the batch of pages of so many patterns each."""
        return PaddedBatch(counts, rows=self.count_rows(len(counts)))

    def copy_pages(self, pages: Sequence[Page], rows: int) -> Tensors:
        """Copy the pages' tensors, and those of empty pages up to so many rows, each (rows, *shape)."""
        return self.bank.gather(self.bank.enter([*pages, *[Page()] * (rows - len(pages))]))

    def copy_brought_pages(self, pages: Sequence[Page], rows: int) -> Tensors:
        """Copy as `copy_pages` does, of pages that the bank has just brought."""
        return self.bank.gather(self.bank.locate([*pages, *[Page()] * (rows - len(pages))]))

    def to_device(self, padded: NDArray[Scalar]) -> Tensor:
        """Bring an array to the model's device; read-only ones, such as parts of a message, are copied."""
        return torch.from_numpy(np.require(padded, requirements="W")).to(self.model.device)

    def make_column(self, values: Sequence[int], rows: int) -> Tensor:
        """Return one number a row, padded with zeros: (rows,) int64."""
        return torch.tensor([*values, *[0] * (rows - len(values))], device=self.model.device)


class PaddedBatch:
    """Rows of different numbers of patterns, each padded to the same power of two."""

    def __init__(self, counts: Sequence[int], *, rows: int) -> None:
        """`rows` is how many there are with padding."""
        self.counts = counts
        width = bucket(max(counts))
        self.shape = rows, width
        """(rows, width)"""
        ends = np.cumsum(counts)
        gaps = np.arange(len(counts)) * width - ends + counts
        self._at = np.repeat(gaps, counts) + np.arange(ends[-1])
        self._full = len(self._at) == rows * width

    @property
    def present(self) -> NDArray[np.bool_]:
        """Where there is a pattern, (rows, width)."""
        return self.spread(np.ones(len(self._at), np.bool_))

    def spread(self, flat: NDArray[Scalar]) -> NDArray[Scalar]:  # (patterns, …), row after row
        """Spread patterns over rows, (rows, width, …), with zeros where there is no pattern."""
        if self._full:
            return flat.reshape(*self.shape, *flat.shape[1:])
        padded = np.zeros((self.shape[0] * self.shape[1], *flat.shape[1:]), flat.dtype)
        padded[self._at] = flat
        return padded.reshape(*self.shape, *flat.shape[1:])

    def spread_tensor(self, flat: Tensor) -> Tensor:  # (patterns, …), row after row
        """Spread as `spread` does, on the tensor's device."""
        if self._full:
            return flat.view(*self.shape, *flat.shape[1:])
        padded = flat.new_zeros(self.shape[0] * self.shape[1], *flat.shape[1:])
        padded[torch.from_numpy(self._at).to(flat.device)] = flat
        return padded.view(*self.shape, *flat.shape[1:])

    def at(self, device: torch.device) -> Tensor:
        """Return where the patterns are among all places, (patterns,) int64."""
        return torch.from_numpy(self._at).to(device)

    def collect(self, tensor: Tensor, axis: int = 0) -> Floats:  # (…, rows, width, …), the rows at `axis`
        """Collect the patterns again, as the inverse of `spread`, on the host."""
        array = tensor.flatten(axis, axis + 1).float().cpu().numpy()
        return array if self._full else array.take(self._at, axis)


def run_to_end(stops: Stops[Made]) -> Made:
    """Run a computation to its end without a stop, and return its result."""
    while True:
        try:
            next(stops)
        except StopIteration as end:
            made: Made = end.value
            return made


def count_side_by_side(model: Model) -> int:
    """Return how many pages the device computes together; on a CPU those that its cache holds, as a power of two."""
    if model.device.type != "cpu":
        return PAGES_LIMIT
    return 1 << max(0, round(CACHE_BYTES / model.weights_bytes).bit_length() - 1)


def concatenate(arrays: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
    """Concatenate the arrays; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def group_by_memory(jobs: Iterable[Job]) -> Sequence[MemoryBatch]:
    """Group jobs by memory, so that a page is gathered once for all of them."""
    batches: dict[MemoryRecord, MemoryBatch] = {}
    for job in jobs:
        if (batch := batches.get(job.memory)) is None:
            batch = batches[job.memory] = MemoryBatch(job.memory)
        batch.jobs.append(job)
    return list(batches.values())


def bucket(count: int) -> int:
    """Return the power of two that a count is padded to, so that programs meet few shapes."""
    return 1 << (count - 1).bit_length() if count else 1


def chunks(items: Iterable[ItemType], size: Callable[[ItemType], int], limit: int) -> Iterator[Sequence[ItemType]]:
    """Yield the items in parts of at most `limit`, each of items whose sizes have the same bucket."""
    alike: dict[int, list[ItemType]] = defaultdict(list)
    for item in items:
        alike[bucket(size(item))].append(item)
    for group in alike.values():
        yield from (group[start : start + limit] for start in range(0, len(group), limit))
