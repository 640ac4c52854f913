"""One session: the requests of many memories, decoded, queued and answered, or passed on to their owners."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from time import perf_counter

import anyio
from anyio.abc import TaskGroup

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import HandleNotOpen, InvalidRequest, MemoryNotFound, MemoryShort, ServerError
from attractor_server.fields import Layout
from attractor_server.identity.grants import Role
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.names import namespace_of
from attractor_server.memories.outcomes import OutcomeFuture, outcome_of
from attractor_server.rpc.context import Context, get_access, get_account, is_forwarded
from attractor_server.rpc.dedup import number_job
from attractor_server.rpc.errors import to_server_error
from attractor_server.rpc.forwarding import ForwardedSession
from attractor_server.rpc.handles import HandleTable
from attractor_server.rpc.handshake import receive_hello, welcome
from attractor_server.rpc.operations import BY_REQUEST
from attractor_server.rpc.peers import Peers
from attractor_server.rpc.request_ids import check_count, check_ids
from attractor_server.rpc.requests import FrameRequest, RequestFrame, make_jobs, read_frame
from attractor_server.rpc.responses import Asked, PendingResponse, ResponseQueue
from attractor_server.scheduling.jobs import Job, Origin
from attractor_server.shard.budget import SETTING
from attractor_server.shard.shard import Shard

IDS_AT_A_TIME = 4096
"""Ids of a cancellation, until others have the event loop"""

IDLE_S = 0.002
"""Between parts of a cancellation of millions, in which other threads have the interpreter"""


class Session:
    """Serves one stream from `hello` to its end. One task reads, one writes; each upstream has one more."""

    def __init__(self, shard: Shard, peers: Peers, context: Context, origin: Origin) -> None:
        limits = shard.limits
        self._shard = shard
        self._context = context
        self._account = get_account(context)
        self._answers = ResponseQueue(
            context,
            self._account,
            weight_limit=limits.session_patterns,
            message_bytes=limits.message_bytes,
            recorder=shard.recorder,
        )
        self._hello = pb.Hello()
        self._access = get_access(context)
        self._origin = self._access.share(origin)
        self._handles = HandleTable(
            shard, peers, self._answers, self._hello, origin, self._access, forwarded=is_forwarded(context)
        )
        self._pending: dict[int, Job | None] = {}
        """Jobs that are not answered, by request id; None for a repeat, whose job is another's"""

    async def run(self) -> None:
        """Serve until the client has sent its last and everything is answered.

        Raises:
            ServerError: the stream cannot go on.
        """
        self._hello.CopyFrom(await receive_hello(self._context))
        self._answers.put(PendingResponse(pb.SessionResponse(welcome=welcome(self._shard))))
        fault: ServerError | None = None

        def end() -> None:
            nonlocal fault
            fault = MemoryShort(
                f"this session left its answers unread for {self._account.budget.unread_s:g} s, while others waited "
                f"for the memory that `{SETTING}` allows; read them as they come"
            )
            tasks.cancel_scope.cancel()

        async def end_with_identity() -> None:
            nonlocal fault
            fault = await self._access.wait_for_end()
            tasks.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                self._account.end = end
                self._shard.recorder.open_session(self._handles)
                tasks.start_soon(self._answers.run)
                tasks.start_soon(self._announce_drain)
                if self._access.ends:
                    tasks.start_soon(self._announce_end_of_proof)
                    tasks.start_soon(end_with_identity)
                try:
                    await self._serve(tasks)
                except ServerError as error:
                    fault = error
                tasks.cancel_scope.cancel()
        finally:
            self._account.end = lambda: None
            self._shard.recorder.close_session(self._handles)
            self._handles.leave()
            self._abandon()
        if fault is not None:
            raise fault

    async def _announce_drain(self) -> None:
        await self._shard.draining.wait()
        self._answers.put(PendingResponse(pb.SessionResponse(drain=pb.Drain())))

    async def _announce_end_of_proof(self) -> None:
        await self._access.wait_for_drain()
        self._answers.put(PendingResponse(pb.SessionResponse(drain=pb.Drain())))

    async def _serve(self, tasks: TaskGroup) -> None:
        while isinstance(frame := await self._context.read(), pb.SessionRequest):
            kind = frame.WhichOneof("frame")
            if kind in BY_REQUEST:
                await self._request(read_frame(frame, BY_REQUEST[kind], origin=self._origin))
            elif kind == "open":
                await self._handles.open(frame.open, tasks)
            elif kind == "close":
                await self._handles.close(frame.close)
            elif kind == "cancel":
                await self._cancel(frame.cancel)
            else:
                raise InvalidRequest.of("frame", f"saw {kind}; expected open, close, cancel or a frame of requests")
            await self._answers.wait_for_room()
        await self._handles.wait_for_all()
        while not (self._answers.all_sent and not self._pending and all(up.idle for up in self._handles.upstreams)):
            await self._answers.changes.wait()

    def _abandon(self) -> None:
        """Withdraw what nobody waits for any more, but numbered writes: the client will repeat them, in their order."""
        for upstream in self._handles.upstreams:
            upstream.lose()
        for job in self._pending.values():
            if job is not None and not job.numbered:
                job.withdraw()

    async def _cancel(self, frame: pb.Cancel) -> None:
        """Withdraw those that are not answered; others have the event loop in between, since they may be millions.

        So has the engine's thread the interpreter, for which it would wait as long again at each of its calls.
        """
        ids = frame.request_ids
        for start in range(0, len(ids), IDS_AT_A_TIME):
            if not (self._pending or any(upstream.unanswered for upstream in self._handles.upstreams)):
                break
            part = ids[start : start + IDS_AT_A_TIME]
            for request_id in self._pending.keys() & part:
                if (job := self._pending[request_id]) is not None:
                    job.withdraw()
            for upstream in self._handles.upstreams:
                if sent := upstream.unanswered & set(part):
                    await upstream.send(pb.SessionRequest(cancel=pb.Cancel(request_ids=sent)))
            await asyncio.sleep(0 if len(ids) <= IDS_AT_A_TIME else IDLE_S)
        if len(ids) > IDS_AT_A_TIME:
            await asyncio.sleep(IDLE_S)  # also after what was decoded in vain: the next piece of it comes at once

    async def _request(self, ask: RequestFrame) -> None:
        check_count(len(ask.columns.request_ids), ask.where, limit=self._shard.limits.frame_patterns)
        ids = list(ask.columns.request_ids)
        unanswered = (self._pending.keys(), *(upstream.unanswered for upstream in self._handles.upstreams))
        check_ids(ids, ask.where, unanswered)
        try:
            rows = ask.split_rows(self._shard.limits.frame_patterns)
        except Exception as error:
            self._fail(ask, ids, to_server_error(error, f"a frame of {ask.where}"))
            return
        if self._handles.opening:
            await self._handles.wait_for(*ask.columns.handles)
        audit = self._access.audit
        role = Role.WRITE if ask.operation.writes else Role.READ
        # Each request goes to its memory's shard: fails here, is passed on, or becomes a job of its memory's model.
        here: dict[str, list[FrameRequest]] = defaultdict(list)
        elsewhere: dict[ForwardedSession, list[int]] = defaultdict(list)
        for i, handle in enumerate(ask.columns.handles):
            match self._handles.bound.get(handle):
                case None:
                    self._fail(ask, [ids[i]], _not_open_error(handle, ask))
                case ForwardedSession() as upstream:
                    elsewhere[upstream].append(i)
                case record if record.moved:
                    self._fail(ask, [ids[i]], self._shard.memory_moved_error(record))
                case record if record.deleted:
                    self._fail(ask, [ids[i]], MemoryNotFound(f"memory {record.name!r} was deleted"))
                case record if not self._access.may(record.name, role):
                    self._fail(ask, [ids[i]], self._access.refuse(record.name, role, field=f"{ask.where}.handles"))
                case record:
                    if audit is not None:
                        audit.count(ask.operation.value, record.name)
                    here[record.model].append(FrameRequest(i, rows[i], record))
        if any(len(chosen) < len(rows) for chosen in elsewhere.values()):
            try:
                self._shard.check_kept("items" if ask.items else "")
                ask.check_items(rows[-1].stop)  # of the whole frame: an owner sees only its part
            except ServerError as error:
                places = chain(*elsewhere.values(), (one.place for asked in here.values() for one in asked))
                self._fail(ask, [ids[i] for i in places], error)
                return
        for upstream, chosen in elsewhere.items():
            own = [ids[i] for i in chosen]
            try:
                part = ask.select(rows, chosen)
            except Exception as error:
                self._fail(ask, own, to_server_error(error, f"a part of {ask.where}"))
                continue
            self._shard.recorder.record_forwarded("session", len(own))
            with self._shard.recorder.trace_forward(ask.columns.trace_parents):
                await upstream.send(part, own)
        for model, asked in here.items():
            await self._submit(ask, ids, asked, self._shard.model(model), rows[-1].stop)

    async def _submit(
        self, ask: RequestFrame, ids: Sequence[int], asked: Sequence[FrameRequest], model: ModelCard, patterns: int
    ) -> None:
        """Queue the requests of one model, after every check; wait where too much is under way."""
        sequences = list(ask.sequences) or [0] * len(ids)
        asked_for = Asked(ask.operation.value, model.name, perf_counter())
        each_bytes = self._account.message_bytes // patterns
        for i, made in make_jobs(self._shard, ask, asked, model, rows=patterns):
            if isinstance(made, Job):
                await self._answers.reserve(made.weight)
                held_bytes = self._account.move(each_bytes * made.size)
                try:
                    if made.trajectory:
                        held_bytes += await self._take_iterates(made, model.layout)
                except MemoryShort as error:
                    made.fail(error)
                    self._answers.put(PendingResponse(error, ids[i], None, made.weight, held_bytes, asked_for))
                    continue
                await self._enqueue(ids[i], made, sequences[i], model, held_bytes, asked_for)
            else:
                self._fail(ask, [ids[i]], made)

    async def _take_iterates(self, job: Job, layout: Layout) -> int:
        """Take the room that the iterates of a trajectory need beside the answer, and return its size.

        Raises:
            MemoryShort: there was no room for a while.
        """
        size_bytes = 2 * 4 * layout.size * (job.weight - job.size)  # as computed, and in frames
        await self._account.take(size_bytes)
        return size_bytes

    async def _enqueue(  # noqa: PLR0913
        self, request_id: int, job: Job, sequence: int, model: ModelCard, held_bytes: int, asked: Asked
    ) -> None:
        """Queue the job, unless it is a write that was sent before: then its first answer is awaited."""
        try:
            first = number_job(job, self._access, self._hello.client_id, sequence)
        except Exception as error:
            failure = to_server_error(error, "a numbered request")
            job.fail(failure)
            self._answers.put(PendingResponse(failure, request_id, None, job.weight, held_bytes, asked))
            return
        self._pending[request_id] = job if first is None else None
        if first is not None and job.trace is not None:
            first.add_done_callback(job.trace.end_with)
        (first or job.future).add_done_callback(
            partial(self._respond, request_id, job.weight, held_bytes, model, asked)
        )
        if first is None:
            await self._submit_one(job)

    async def _submit_one(self, job: Job) -> None:
        """Queue the job once its namespace may have it, and there is room; fail it where that will not be."""
        namespace, rates = namespace_of(job.memory.name), self._shard.rates
        try:
            self._shard.check_quota(job)
            if not rates.is_free(namespace):
                await rates.wait(namespace, patterns=job.size, deadline_s=job.deadline_s)
                self._shard.check_here(job.memory)
        except ServerError as error:
            job.fail(error)
            return
        except asyncio.CancelledError:
            job.withdraw()
            raise
        await self._shard.batcher.submit(job)

    def _respond(  # noqa: PLR0913 - a callback that is bound to its request
        self, request_id: int, weight: int, held_bytes: int, model: ModelCard, asked: Asked, answer: OutcomeFuture
    ) -> None:
        self._pending.pop(request_id, None)
        self._answers.put(PendingResponse(outcome_of(answer), request_id, model.layout, weight, held_bytes, asked))

    def _fail(self, ask: RequestFrame, request_ids: Iterable[int], error: ServerError) -> None:
        asked = Asked(ask.operation.value)
        for request_id in request_ids:
            self._answers.put(PendingResponse(error, request_id, asked=asked))


def _not_open_error(handle: int, ask: RequestFrame) -> HandleNotOpen:
    return HandleNotOpen(f"{ask.where}.handles: saw {handle}, which is not bound; send `open` first")
