"""From a frame of requests to jobs: the tensors are decoded and checked once for all, each job has a view of them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attractor_server.engine.work import Job, Operation, Record
from attractor_server.errors import InvalidRequest, ServerError
from attractor_server.fields import Layout
from attractor_server.rpc import codec
from attractor_server.rpc.asks import Ask
from attractor_server.rpc.errors import unforeseen
from attractor_server.rpc.shard import ModelCard, Shard
from attractor_server.rpc.values import check_values
from attractor_server.storage.records import Item


@dataclass(eq=False, slots=True)
class Asked:
    """One request of a frame: its place in the columns, its rows of the tensors, and the memory it is for."""

    place: int
    rows: slice
    memory: Record


def jobs_of(
    shard: Shard, ask: Ask, asked: Sequence[Asked], model: ModelCard, *, rows: int
) -> Iterator[tuple[int, Job | ServerError]]:
    """The place in the columns, and the job or why there is none, of requests for memories of one model.

    `rows` is the number of patterns in the whole frame.
    """
    where, partial = f"{ask.where}.tensors", not ask.operation.writes
    try:
        shard.check(ask.operation, model, pull=ask.pull)
        shard.check_kept("items" if ask.items else "match" if ask.match else "")
        items = ask.checked_items(rows)
        patterns = codec.decode(model.layout, ask.columns.tensors, rows=rows, where=where, partial=partial)
        wrong = _wrong(model.layout, patterns, asked, where=where, partial=partial)
        job_of = _Maker(shard, ask, model, patterns, items)
    except Exception as error:
        failure = error if isinstance(error, ServerError) else unforeseen(error, f"a frame of {ask.where}")
        yield from ((one.place, failure) for one in asked)
        return
    for one in asked:
        made: Job | ServerError
        try:
            made = wrong.get(one.place) or job_of(one)
        except Exception as error:
            made = unforeseen(error, f"a request of {ask.where}")
        yield one.place, made


def _wrong(
    layout: Layout, patterns: codec.Patterns, asked: Sequence[Asked], *, where: str, partial: bool
) -> dict[int, ServerError]:
    """By place the requests with values that cannot be meant, which are looked for only where there are any."""
    wrong: dict[int, ServerError] = {}
    try:
        check_values(layout, patterns, where=where, partial=partial)
    except InvalidRequest:
        for one in asked:
            try:
                check_values(layout, patterns.rows(one.rows), where=where, partial=partial)
            except InvalidRequest as error:
                wrong[one.place] = error
    return wrong


class _Maker:
    """Makes the jobs of one frame: what they have in common is found once."""

    def __init__(
        self, shard: Shard, ask: Ask, model: ModelCard, patterns: codec.Patterns, items: Sequence[Item]
    ) -> None:
        query = ask.operation is Operation.QUERY
        self._ask = ask
        self._limit = max(shard.limits.session_patterns, shard.limits.frame_patterns)
        self._layout = model.layout
        self._steps = (ask.steps or model.steps) if query else 0
        self._own_steps = query and not ask.steps
        self._values = patterns.values
        self._known = patterns.known if query else None
        self._items = items
        self._deadlines_ms = list(ask.columns.deadline_ms)
        self._loop = asyncio.get_running_loop()
        self._now_s = self._loop.time()

    def __call__(self, asked: Asked) -> Job | ServerError:
        values = self._values[asked.rows]
        deadline_ms = self._deadlines_ms[asked.place] if self._deadlines_ms else 0
        job = Job(
            operation=self._ask.operation,
            memory=asked.memory,
            future=self._loop.create_future(),
            # A page may keep what is written for long: not the whole frame with it.
            values=values.copy() if self._ask.operation.writes else values,
            known=None if self._known is None else self._known[asked.rows],
            layout=self._layout,
            steps=self._steps,
            own_steps=self._own_steps,
            trajectory=self._ask.trajectory,
            pull=self._ask.pull,
            match=self._ask.match,
            items=self._items[asked.rows],
            deadline_s=self._now_s + deadline_ms / 1000 if deadline_ms else None,
        )
        return self._too_heavy(job) if job.weight > self._limit else job

    def _too_heavy(self, job: Job) -> ServerError:
        seen = f"saw a trajectory of {job.steps + 1} iterates of {job.size} patterns"
        return InvalidRequest.of("query.trajectory", f"{seen}; expected a product of at most {self._limit}")
