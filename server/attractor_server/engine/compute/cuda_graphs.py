"""CUDA graphs: all the launches of a reading as one, for batches so small that launching is what they wait for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading
from attractor_server.engine.compute.closed_form import ClosedForm, Schedule
from attractor_server.engine.compute.loops import read_form

COPIED_BYTES = 64 << 20
"""Fast weights of a batch at most: a graph reads from fixed places, and copying more there costs more than it saves"""

GRAPHS_LIMIT = 64
"""Of one model; batches come in powers of two"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """A reading of one shape, with the places that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    fast: Tensors
    x: Tensor
    reading: Reading

    def replay(self, fast: Tensors, x: Tensor) -> Reading:
        """Run the reading on other pages and cues."""
        for name, place in self.fast.items():
            place.copy_(fast[name])
        self.x.copy_(x)
        self.graph.replay()
        found = self.reading
        return Reading(
            pattern=found.pattern.clone(),
            energy_before=found.energy_before.clone(),
            energy_after=found.energy_after.clone(),
            delta_energy=found.delta_energy.clone(),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphedReads:
    """See `Kernel`; a shape is captured when it is met first, which is when the model is warmed up."""

    form: ClosedForm
    schedule: Schedule
    page_bytes: int
    captured: dict[tuple[object, ...], Captured] = field(default_factory=dict)

    def takes(self, x: Tensor) -> bool:
        """Accept batches in powers of two on CUDA whose weights are quickly copied."""
        pages, n = x.shape[:2]
        small = 0 < pages * self.page_bytes <= COPIED_BYTES
        return x.is_cuda and small and not pages & (pages - 1) and not n & (n - 1)

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `Kernel`."""
        key = (*x.shape, x.dtype, steps)
        if key not in self.captured and len(self.captured) >= GRAPHS_LIMIT:
            return read_form(self.form, self.schedule, fast, x, steps=steps)
        if key not in self.captured:
            self.captured[key] = self._capture(fast, x, steps)
        return self.captured[key].replay(fast, x)

    def _capture(self, fast: Mapping[str, Tensor], x: Tensor, steps: int) -> Captured:
        own, cue = {name: value.clone() for name, value in fast.items()}, x.clone()
        aside = torch.cuda.Stream(x.device)
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):  # libraries set themselves up in the first run, which must not be captured
            read_form(self.form, self.schedule, own, cue, steps=steps)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            reading = read_form(self.form, self.schedule, own, cue, steps=steps)
        return Captured(graph=graph, fast=own, x=cue, reading=reading)
