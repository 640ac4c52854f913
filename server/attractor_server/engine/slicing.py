"""Parts: what takes longer than others should wait is computed in turns, with others between."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from attractor_server.engine.batch import Results
from attractor_server.errors import ServerError
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Outcome, Unfinished
from attractor_server.scheduling.failures import memory_gone_error
from attractor_server.scheduling.jobs import Job

PART_S = 0.007
"""What a part should take"""


@dataclass(eq=False)
class _UnderWay:
    jobs: Sequence[Job]
    steps: Results
    outcomes: dict[Job, Outcome | ServerError] = field(default_factory=dict)


class TimeSlicer:
    """Jobs that are under way, of one memory each time. Lives on the engine's thread."""

    def __init__(self, compute: Callable[[Sequence[Job]], Results], *, part_s: float) -> None:
        self._compute = compute
        self._part_s = part_s
        self._under_way: dict[MemoryRecord, _UnderWay] = {}

    def run(self, jobs: Sequence[Job]) -> list[Outcome | ServerError]:
        """Return an outcome, an error or Unfinished for each of these jobs of one memory, in their order.

        Those that are Unfinished have to come again, all that somebody waits for, before any other of their memory.
        """
        memory, end_s = jobs[0].memory, time.perf_counter() + self._part_s
        if memory.deleted:
            self._drop(memory)
            return [memory_gone_error(memory) for _ in jobs]
        one = self._under_way.pop(memory, None) or _UnderWay(jobs, self._compute(jobs))
        for answered in one.steps:
            if answered is not None:
                one.outcomes.update([answered])
            elif any(job.aside for job in one.jobs) or time.perf_counter() >= end_s:
                self._under_way[memory] = one
                break
        unfinished = Unfinished()
        return [one.outcomes.get(job, unfinished) for job in jobs]

    def drop_stale(self) -> None:
        """Drop what nobody waits for any more."""
        for memory in [memory for memory, one in self._under_way.items() if all(job.future.done() for job in one.jobs)]:
            self._drop(memory)

    def _drop(self, memory: MemoryRecord) -> None:
        if (one := self._under_way.pop(memory, None)) is not None:
            one.steps.close()
