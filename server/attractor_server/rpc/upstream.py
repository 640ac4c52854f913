"""A session with the owner of some memories, kept on behalf of a client whose own session ends here."""

import asyncio
from collections.abc import Iterable

import anyio
import grpc
from grpc import aio

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc
from attractor_server.rpc.answers import Answers, Item
from attractor_server.rpc.context import FORWARDED
from attractor_server.rpc.peers import Peers, unreachable
from attractor_server.topology import ShardInfo

WELCOME_TIMEOUT_S = 5.0


class Upstream:
    """Passes frames on as they are, and answers back. Once lost it stays so, and all it was asked fails."""

    def __init__(self, peers: Peers, peer: ShardInfo, hello: pb.Hello, answers: Answers) -> None:
        self._call = rpc.MemoryDataStub(peers.channel(peer)).Session(metadata=FORWARDED)
        self._peer = peer
        self._hello = hello
        self._answers = answers
        self._unanswered: set[int] = set()
        self._welcomed = anyio.Event()
        self.lost = False

    @property
    def idle(self) -> bool:
        """No answer is to be expected."""
        return not self._unanswered

    def expects(self, request_id: int) -> bool:
        """Whether that request was passed on and is not answered."""
        return request_id in self._unanswered

    async def run(self) -> None:
        """Passes answers back until the owner ends the session, then fails what has none."""
        try:
            if await self._greet():
                while isinstance(frame := await self._call.read(), pb.SessionResponse):
                    await self._pass_back(frame)
        except (grpc.RpcError, aio.UsageError):
            pass  # it is lost, and whatever waits is told so
        finally:
            self._call.cancel()
            self.lose()

    async def send(self, frame: pb.SessionRequest, request_ids: Iterable[int] = ()) -> None:
        """Passes a frame on, as fast as the owner takes it; the ids are those that it will answer."""
        ids = set(request_ids)
        self._unanswered |= ids
        await self._welcomed.wait()
        if self.lost:
            self._fail(ids & self._unanswered)
            return
        try:
            await self._call.write(frame)
        except (grpc.RpcError, aio.UsageError, asyncio.InvalidStateError):
            self.lose()

    def lose(self) -> None:
        """Fails everything unanswered; handles bound here must be opened anew."""
        self.lost = True
        self._welcomed.set()
        self._fail(set(self._unanswered))

    def _fail(self, request_ids: Iterable[int]) -> None:
        for request_id in request_ids:
            self._unanswered.discard(request_id)
            self._answers.put(Item(unreachable(self._peer), request_id))

    async def _greet(self) -> bool:
        with anyio.move_on_after(WELCOME_TIMEOUT_S):
            await self._call.write(pb.SessionRequest(hello=self._hello))
            answer = await self._call.read()
            if isinstance(answer, pb.SessionResponse) and answer.HasField("welcome"):
                self._welcomed.set()
                return True
        return False

    async def _pass_back(self, frame: pb.SessionResponse) -> None:
        """Hands a frame on, and forgets the requests that it answers."""
        weight = 0
        match kind := frame.WhichOneof("frame"):
            case "opened":
                frame.opened.route = self._peer.address
                self._unanswered.discard(frame.opened.request_id)
            case "failures":
                self._unanswered.difference_update(failure.request_id for failure in frame.failures.failures)
            case "stored" | "recalled" | "recognized":
                answered = getattr(frame, kind)
                self._unanswered.difference_update(answered.request_ids)
                weight = sum(getattr(answered, "patterns", ()))
            case "trajectory":
                weight = len(frame.trajectory.energy)
            case _:
                return  # a drain concerns the owner's own clients: here the loss of the stream will tell
        await self._answers.reserve(weight)
        self._answers.put(Item(frame, weight=weight))
