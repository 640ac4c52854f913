"""A server of the contract that does what a real one cannot be made to do on demand.

It counts patterns. A query's answer is its cue; `energy_before` is the number of patterns the memory has, so that a
test sees which stores a query came after. The newest page answers.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import grpc
from grpc import aio
from tests.support.fake_messages import as_float32, rows_of, status
from tests.support.fake_models import MODELS, FakeModels

import attractor
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb

QUICK = attractor.Retry(first_delay_s=0.01, limit_delay_s=0.05)
DEFAULTS = memories_pb2.MemorySettings(
    write=memories_pb2.WRITE_MODE_REWRITE, when_full=memories_pb2.WHEN_FULL_GROW, page_patterns=8
)


@dataclass
class FakeMemory:
    """What one memory was sent."""

    info: memories_pb2.Memory
    patterns: int = 0
    answers: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)

    @property
    def page(self) -> int:
        """Number of the newest page."""
        return max(0, self.patterns - 1) // self.info.settings.page_patterns


class FakeSession:
    """One stream: what arrived, and the means to answer."""

    def __init__(self, server: "FakeServer", context: "aio.ServicerContext[object, object]") -> None:
        self.server = server
        self.context = context
        self.client_id = ""
        self.handles: dict[int, str] = {}
        self.frames: list[pb.SessionRequest] = []
        self._writing = anyio.Lock()

    async def send(self, **frame: object) -> None:
        async with self._writing:  # the test and the handler may both answer
            await self.context.write(pb.SessionResponse(**frame))  # type: ignore[arg-type]

    async def abort(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Ends the stream with an error."""
        await self.context.abort(code, "dropped by the test")

    async def drop(self) -> None:
        """Ends the stream with an error, from outside of its handler."""
        with suppress(aio.AbortError):
            await self.abort()

    async def fail(self, request_ids: list[int], code: str, reason: str) -> None:
        failures = [pb.Failure(request_id=request_id, status=status(code, reason)) for request_id in request_ids]
        await self.send(failures=pb.Failures(failures=failures))


Written = TypeVar("Written", pb.StoredFrame, pb.ErasedFrame)
Hook = Callable[[FakeSession, pb.SessionRequest], AsyncIterator[bool]]


class FakeServer(memory_data_pb2_grpc.MemoryDataServicer, memories_pb2_grpc.MemoriesServicer):
    """Answers as the contract says, unless `hook` does otherwise."""

    def __init__(self) -> None:
        self.address = ""
        self.memories: dict[str, FakeMemory] = {}
        self.sessions: list[FakeSession] = []
        self.frames: list[pb.SessionRequest] = []
        """Of all sessions, without hello."""
        self.created: list[memories_pb2.CreateRequest] = []
        self.routes: dict[str, str] = {}
        self.welcome = pb.Welcome(
            protocol_version=1, epoch=1, frame_patterns_limit=256, message_bytes_limit=16 * 1024 * 1024
        )
        self.calibrated = False
        """Whether recognized patterns have a probability."""
        self.last_sequence = 0
        """Told of every memory, where it has not seen a higher one."""
        self.hook: Hook | None = None
        """An async generator that yields True once if it dealt with the frame itself."""
        self.greet: Callable[[aio.ServicerContext[object, object]], Awaitable[None]] | None = None
        """Done before the welcome."""
        self.unary_failures: list[grpc.StatusCode] = []
        self.time_left: dict[str, list[float]] = {}
        """Seconds that unary calls still had when they arrived."""
        self.stuck: set[str] = set()
        """Unary calls that never answer."""
        self.changed = anyio.Event()
        self.server: aio.Server | None = None

    async def stop(self) -> None:
        """Drops every connection, and takes no more."""
        if self.server is not None:
            await self.server.stop(None)

    def add(self, name: str, model: str = "tiny", settings: memories_pb2.MemorySettings | None = None) -> FakeMemory:
        info = memories_pb2.Memory(name=name, model=model, model_digest=MODELS[model].digest, settings=DEFAULTS)
        if settings is not None:
            info.settings.MergeFrom(settings)  # what is unspecified changes nothing
        return self.memories.setdefault(name, FakeMemory(info))

    def of_kind(self, kind: str) -> list[pb.SessionRequest]:
        return [frame for frame in self.frames if frame.WhichOneof("frame") == kind]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something has arrived."""
        with anyio.fail_after(10):
            while not condition():
                self.changed = anyio.Event()
                await self.changed.wait()

    async def Session(self, request_iterator: object, context: "aio.ServicerContext[object, object]") -> None:  # type: ignore[override]
        session = FakeSession(self, context)
        self.sessions.append(session)
        while isinstance(frame := await context.read(), pb.SessionRequest):  # no generator that may be left running
            if frame.HasField("hello"):
                session.client_id = frame.hello.client_id
                if self.greet is not None:
                    await self.greet(context)
                self.changed.set()
                await session.send(welcome=self.welcome)
                continue
            session.frames.append(frame)
            self.frames.append(frame)
            self.changed.set()
            if not await self._hooked(session, frame):
                await self.answer(session, frame)

    async def Store(self, request: pb.StoreRequest, context: "aio.ServicerContext[object, object]") -> pb.StoreResponse:
        raise NotImplementedError

    async def Erase(self, request: pb.EraseRequest, context: "aio.ServicerContext[object, object]") -> pb.EraseResponse:
        raise NotImplementedError

    async def Query(self, request: pb.QueryRequest, context: "aio.ServicerContext[object, object]") -> pb.QueryResponse:
        raise NotImplementedError

    async def Recognize(
        self, request: pb.RecognizeRequest, context: "aio.ServicerContext[object, object]"
    ) -> pb.RecognizeResponse:
        raise NotImplementedError

    async def _hooked(self, session: FakeSession, frame: pb.SessionRequest) -> bool:
        if self.hook is None:
            return False
        dealt = [done async for done in self.hook(session, frame)]
        return any(dealt)

    async def answer(self, session: FakeSession, frame: pb.SessionRequest) -> None:
        match frame.WhichOneof("frame"):
            case "open":
                await self._open(session, frame.open)
            case "close":
                session.handles.pop(frame.close.handle)
            case "store":
                await session.send(stored=self._written(session, frame.store, pb.StoredFrame()))
            case "erase":
                await session.send(erased=self._written(session, frame.erase, pb.ErasedFrame()))
            case "query":
                await self._query(session, frame.query)
            case "recognize":
                await self._recognize(session, frame.recognize)

    async def _open(self, session: FakeSession, frame: pb.Open) -> None:
        if frame.memory not in self.memories:
            await session.fail([frame.request_id], "NOT_FOUND", "MEMORY_NOT_FOUND")
            return
        session.handles[frame.handle] = frame.memory
        seen = [number for client, number in self.memories[frame.memory].answers if client == session.client_id]
        opened = pb.Opened(
            request_id=frame.request_id,
            handle=frame.handle,
            model=self.memories[frame.memory].info.model,
            route=self.routes.get(frame.memory, ""),
            last_sequence=max(self.last_sequence, *seen, 0),
        )
        await session.send(opened=opened)

    def _written(self, session: FakeSession, frame: pb.StoreFrame | pb.EraseFrame, answer: Written) -> Written:
        columns = frame.columns
        for request_id, handle, rows, sequence in zip(
            columns.request_ids, columns.handles, columns.patterns, frame.sequences, strict=True
        ):
            memory = self.memories[session.handles[handle]]
            change = -rows if isinstance(frame, pb.EraseFrame) else rows
            version, total = self.apply(memory, session.client_id, sequence, change)
            answer.request_ids.append(request_id)
            answer.versions.append(version)
            answer.totals.append(total)
        return answer

    def apply(self, memory: FakeMemory, client_id: str, sequence: int, rows: int) -> tuple[int, int]:
        """A store or an erase, or the first answer to it."""
        if (client_id, sequence) not in memory.answers:
            memory.patterns += rows
            memory.info.version += 1
            memory.info.pages = memory.page + 1
            memory.answers[client_id, sequence] = (memory.info.version, memory.patterns)
        return memory.answers[client_id, sequence]

    async def _query(self, session: FakeSession, frame: pb.QueryFrame) -> None:
        columns = frame.columns
        counts, pages = self._counts(session, columns)
        tensors = [as_float32(tensor) for tensor in columns.tensors]
        if frame.trajectory:
            await self._trajectory(session, columns, tensors)
        scores = pb.Scores(
            energy_before=counts,
            energy_after=[-1.0] * len(counts),
            delta_energy=[0.5] * len(counts),
            steps=[frame.steps or 5] * len(counts),
            pages=pages if any(pages) else [],
        )
        recalled = pb.RecalledFrame(
            request_ids=columns.request_ids, patterns=columns.patterns, tensors=tensors, scores=scores
        )
        await session.send(recalled=recalled)

    async def _trajectory(self, session: FakeSession, columns: pb.RequestColumns, tensors: list[pb.Tensor]) -> None:
        start = 0
        for request_id, rows in zip(columns.request_ids, columns.patterns, strict=True):
            for step in range(3):
                parts = [rows_of(tensor, start, start + rows) for tensor in tensors]
                frame = pb.TrajectoryFrame(request_id=request_id, step=step, tensors=parts, energy=[float(step)] * rows)
                await session.send(trajectory=frame)
            start += rows

    async def _recognize(self, session: FakeSession, frame: pb.RecognizeFrame) -> None:
        counts, pages = self._counts(session, frame.columns)
        recognized = pb.RecognizedFrame(
            request_ids=frame.columns.request_ids,
            patterns=frame.columns.patterns,
            energy=counts,
            delta_energy=[-float(count) for count in counts],
            probability=[1 - 0.5 ** (count + 1) for count in counts] if self.calibrated else [],
            pages=pages if any(pages) else [],
        )
        await session.send(recognized=recognized)

    def _counts(self, session: FakeSession, columns: pb.RequestColumns) -> tuple[list[int], list[int]]:
        """For each pattern how many its memory has, and the number of its newest page."""
        memories = [
            self.memories[session.handles[handle]]
            for handle, rows in zip(columns.handles, columns.patterns, strict=True)
            for _ in range(rows)
        ]
        return [memory.patterns for memory in memories], [memory.page for memory in memories]

    def clock(self, name: str, context: "aio.ServicerContext[object, object]") -> None:
        self.time_left.setdefault(name, []).append(context.time_remaining() or 0)

    async def _unary(self, name: str, context: "aio.ServicerContext[object, object]") -> None:
        self.clock(name, context)
        if name in self.stuck:
            self.stuck.discard(name)
            self.changed.set()
            await anyio.sleep_forever()
        if self.unary_failures:
            await context.abort(self.unary_failures.pop(0), "as the test wants it")

    async def Create(
        self, request: memories_pb2.CreateRequest, context: "aio.ServicerContext[object, object]"
    ) -> memories_pb2.CreateResponse:
        await self._unary("Create", context)
        self.created.append(request)
        return memories_pb2.CreateResponse(memory=self.add(request.name, request.model, request.settings).info)

    async def Get(
        self, request: memories_pb2.GetRequest, context: "aio.ServicerContext[object, object]"
    ) -> memories_pb2.GetResponse:
        await self._unary("Get", context)
        return memories_pb2.GetResponse(memory=(await self._find(request.name, context)).info)

    async def List(
        self, request: memories_pb2.ListRequest, context: "aio.ServicerContext[object, object]"
    ) -> memories_pb2.ListResponse:
        names = sorted(name for name in self.memories if name.startswith(request.prefix) and name > request.page_token)
        page = [self.memories[name].info for name in names[:2]]
        return memories_pb2.ListResponse(memories=page, next_page_token=names[1] if len(names) > 2 else "")

    async def Delete(
        self, request: memories_pb2.DeleteRequest, context: "aio.ServicerContext[object, object]"
    ) -> memories_pb2.DeleteResponse:
        await self._find(request.name, context)
        del self.memories[request.name]
        await self._unary("Delete", context)
        return memories_pb2.DeleteResponse()

    async def DeletePrefix(
        self, request: memories_pb2.DeletePrefixRequest, context: "aio.ServicerContext[object, object]"
    ) -> memories_pb2.DeletePrefixResponse:
        names = [name for name in self.memories if name.startswith(request.prefix)]
        for name in names:
            del self.memories[name]
        await self._unary("DeletePrefix", context)
        return memories_pb2.DeletePrefixResponse(deleted=len(names))

    async def _find(self, name: str, context: "aio.ServicerContext[object, object]") -> FakeMemory:
        if name not in self.memories:
            error = status("NOT_FOUND", "MEMORY_NOT_FOUND")
            trailing = (("grpc-status-details-bin", error.SerializeToString()),)
            await context.abort(grpc.StatusCode.NOT_FOUND, error.message, trailing)
        return self.memories[name]


@asynccontextmanager
async def serving(
    fake: FakeServer,
    port: int = 0,
    *,
    options: Sequence[tuple[str, int]] = (),
    credentials: grpc.ServerCredentials | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[FakeServer]:
    """The server, reachable at `fake.address`, until the end of the block; with TLS where it has credentials."""
    server = aio.server(options=list(options))
    memory_data_pb2_grpc.add_MemoryDataServicer_to_server(fake, server)
    memories_pb2_grpc.add_MemoriesServicer_to_server(fake, server)
    memories_pb2_grpc.add_ModelsServicer_to_server(FakeModels(fake.clock), server)
    address = f"{host}:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    fake.server = server
    fake.address = f"127.0.0.1:{bound}"
    try:
        yield fake
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(None)
