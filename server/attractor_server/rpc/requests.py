"""Jobs from frames of requests."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.message import Message

from attractor_proto.traces import TRACE_BYTES
from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import InvalidRequest, ServerError
from attractor_server.fields import Layout
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.outcomes import Booleans
from attractor_server.memories.records import Item
from attractor_server.rpc import codec
from attractor_server.rpc.codec import Patterns
from attractor_server.rpc.errors import log_unforeseen, to_server_error
from attractor_server.rpc.long_lists import describe_count
from attractor_server.rpc.messages import read_items
from attractor_server.rpc.operations import WireOperation
from attractor_server.rpc.validation import check_steps, check_values
from attractor_server.scheduling.jobs import Job, Operation, Origin
from attractor_server.shard.shard import Shard


@dataclass(kw_only=True, eq=False, slots=True)  # not frozen: that would double what it costs to make one
class RequestFrame:
    """A frame of requests: their columns, and what is asked of all of them."""

    wire: WireOperation
    operation: Operation
    frame: pb.SessionRequest
    message: Message
    """Message of the operation in the frame"""
    columns: pb.RequestColumns
    where: str
    """Path of the columns in the frame"""
    sequences: Sequence[int] = ()
    steps: int = 0
    trajectory: bool = False
    pull_known: bool = False
    match: bool = False
    matches: int = 0
    recall: memories_pb2.Recall.ValueType = memories_pb2.RECALL_UNSPECIFIED
    items: Sequence[memories_pb2.Item] = ()
    on_conflict: pb.OnConflict.ValueType = pb.ON_CONFLICT_UNSPECIFIED
    unless_similar: float = 0.0
    origin: Origin | None = None
    """Session that it came by; None where another shard passed it on"""

    @property
    def needs_kept(self) -> str:
        """The field by which it asks for patterns that are kept; empty for none."""
        if self.items or self.match:
            return "items" if self.items else "match"
        if self.on_conflict > pb.ON_CONFLICT_APPEND:
            return "on_conflict"
        return "unless_similar" if self.unless_similar else ""

    def split_rows(self, patterns_limit: int) -> list[slice]:
        """Return the rows of each request.

        Raises:
            InvalidRequest: the arrays disagree, or ask for too much.
        """
        rows = codec.check_columns(self.columns, where=self.where, patterns_limit=patterns_limit)
        if self.operation.writes and len(self.sequences) != len(rows):
            where = f"{self.operation.value}.sequences"
            seen = describe_count(len(self.sequences))
            raise InvalidRequest.of(where, f"saw {seen} entries; expected {len(rows)}")
        check_steps(self.steps, "query.steps")
        codec.check_form(self.columns.tensors, where=f"{self.where}.tensors", rows=rows[-1].stop)
        return rows

    def check_items(self, patterns: int) -> Sequence[Item]:
        """Return one item for each of so many patterns; nothing where none carries anything.

        Raises:
            InvalidRequest: naming the item, the value seen and the value expected.
        """
        return read_items(self.items, patterns=patterns, where=f"{self.operation.value}.items")

    def select(self, rows: Sequence[slice], chosen: Sequence[int]) -> pb.SessionRequest:
        """Return a frame of the chosen requests alone; of all of them the frame as it came, with nothing in it decoded.

        Items are cut as they are: `check_items` comes first.
        """
        if len(chosen) == len(rows):
            return self.frame
        part = pb.SessionRequest()
        message = getattr(part, self.operation.value)
        for name in self.wire.per_frame:
            setattr(message, name, getattr(self, name))
        for name in self.wire.per_request:
            entries = getattr(self, name)
            getattr(message, name).extend([entries[i] for i in chosen])
        for name in self.wire.per_pattern:
            if entries := getattr(self, name):
                getattr(message, name).extend([entry for i in chosen for entry in entries[rows[i]]])
        codec.select(self.columns, rows, chosen, into=message.columns)
        return part


def read_frame(frame: pb.SessionRequest, wire: WireOperation, *, origin: Origin | None = None) -> RequestFrame:
    """Return what a frame of requests of that operation asks for."""
    name = wire.operation.value
    message = getattr(frame, name)
    return RequestFrame(
        wire=wire,
        operation=wire.operation,
        frame=frame,
        message=message,
        columns=message.columns,
        where=f"{name}.columns",
        origin=origin,
        **{name: getattr(message, name) for name in wire.fields},
    )


@dataclass(eq=False, slots=True)
class FrameRequest:
    """One request of a frame: its place in the columns, its rows of the tensors, and the memory it is for."""

    place: int
    rows: slice
    memory: MemoryRecord


def make_jobs(
    shard: Shard, ask: RequestFrame, asked: Sequence[FrameRequest], model: ModelCard, *, rows: int
) -> Iterator[tuple[int, Job | ServerError]]:
    """Yield the place in the columns, and the job or why there is none, of requests for memories of one model.

    `rows` is the number of patterns in the whole frame.
    """
    where, partial = f"{ask.where}.tensors", ask.wire.partial
    try:
        shard.check(ask.operation, model, pull=ask.pull_known)
        shard.check_kept(ask.needs_kept)
        items = ask.check_items(rows)
        patterns = codec.decode(model.layout, ask.columns.tensors, rows=rows, where=where, partial=partial)
        wrong = _find_invalid(model.layout, patterns, asked, where=where, partial=partial)
        job_of = JobFactory(shard, ask, model, patterns, items)
    except Exception as error:
        failure = to_server_error(error, f"a frame of {ask.where}")
        yield from ((one.place, failure) for one in asked)
        return
    for one in asked:
        made: Job | ServerError
        try:
            made = wrong.get(one.place) or job_of(one)
        except Exception as error:
            made = log_unforeseen(error, f"a request of {ask.where}")
        yield one.place, made


def _find_invalid(
    layout: Layout, patterns: Patterns, asked: Sequence[FrameRequest], *, where: str, partial: bool
) -> dict[int, ServerError]:
    """Return the error of each request with invalid values, by place; they are looked for only where there are any."""
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


class JobFactory:
    """Makes the jobs of one frame: what they have in common is found once."""

    def __init__(
        self, shard: Shard, ask: RequestFrame, model: ModelCard, patterns: Patterns, items: Sequence[Item]
    ) -> None:
        self._limit = max(shard.limits.session_patterns, shard.limits.frame_patterns)
        self._values = patterns.values
        self._copies = ask.operation.writes
        """Whether values are copied: a page may keep what is written for long, and not the whole frame with it"""
        self._beside: Sequence[Item] | Booleans | None = patterns.known if ask.wire.masked else items or None
        """Row for row, items of a store or the mask of a query"""
        self._deadlines_ms = list(ask.columns.deadline_ms)
        self._now_s = asyncio.get_running_loop().time()
        self._parents = ask.columns.trace_parents
        self._trace = partial(shard.recorder.trace_request, operation=ask.operation.value, model=model.name)
        self._make = ask.wire.make_job
        self._options: dict[str, Any] = {"layout": model.layout, "origin": ask.origin}
        if ask.wire.options is not None:
            self._options |= ask.wire.options(ask.message, model)

    def __call__(self, asked: FrameRequest) -> Job | ServerError:
        """Return the job of one request of the frame, or why it can be none."""
        values = self._values[asked.rows]
        beside = () if self._beside is None else (self._beside[asked.rows],)
        deadline_ms = self._deadlines_ms[asked.place] if self._deadlines_ms else 0
        job = self._make(
            asked.memory,
            values.copy() if self._copies else values,
            *beside,
            deadline_s=self._now_s + deadline_ms / 1000 if deadline_ms else None,
            **self._options,
        )
        if job.weight > self._limit:
            return self._too_heavy_error(job)
        if parent := self._parents[TRACE_BYTES * asked.place : TRACE_BYTES * (asked.place + 1)]:
            job.follow(self._trace(parent))
        return job

    def _too_heavy_error(self, job: Job) -> ServerError:
        seen = f"saw a trajectory of {job.steps + 1} iterates of {job.size} patterns"
        return InvalidRequest.of("query.trajectory", f"{seen}; expected a product of at most {self._limit}")
