"""Memories of noisy copies of few things: what a memory is that consolidates observations."""

from dataclasses import dataclass

from torch import Generator, Tensor

from attractor_server.training.datasets import Source
from attractor_server.training.distortions import distort
from attractor_server.training.validation import Task, Trial


@dataclass(frozen=True)
class Observed:
    """A trial whose stored patterns are noisy copies; copies of one thing are neighbours."""

    trial: Trial
    things: Tensor
    """What each stored pattern is a copy of, and each cue another one of, (memories, count, values)"""
    copies: int


def draw_observed(source: Source, task: Task, copies: int) -> Observed:
    """Draw memories of `task.count` patterns, so many copies of each thing, all distorted as the task's cues are.

    As many other things are seen in unseen cues.
    """
    generator = Generator().manual_seed(task.seed)
    things, others = source.sample(task.memories, 2 * (task.count // copies), generator).chunk(2, 1)

    def observe(clean: Tensor) -> Tensor:
        return clean.repeat_interleave(copies, 1)

    seen, unseen = observe(things), observe(others)
    patterns, cues, strange = (
        distort(x, source.layout, task.cues, generator, drifts=source.drifts) for x in (seen, seen, unseen)
    )
    return Observed(Trial(patterns.values, cues, strange), seen, copies)
