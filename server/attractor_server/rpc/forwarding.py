"""A session with the owner of some memories, kept on behalf of a client whose own session ends here."""

import asyncio
from collections.abc import Callable, Iterable, Sequence, Set

import anyio
import grpc
from grpc import aio

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc
from attractor_server.rpc.operations import BY_ANSWER
from attractor_server.rpc.peers import Peers, unreachable_error
from attractor_server.rpc.responses import PendingResponse, ResponseQueue
from attractor_server.sharding.topology import ShardInfo

WELCOME_TIMEOUT_S = 5.0


class ForwardedSession:
    """Passes frames on as they are, and answers back. Once lost it stays so, and all requests under way fail."""

    def __init__(  # noqa: PLR0913 - both ends of a session, and what lies between
        self,
        peers: Peers,
        peer: ShardInfo,
        metadata: Sequence[tuple[str, str | bytes]],
        hello: pb.Hello,
        answers: ResponseQueue,
        unbind: Callable[[int], None],
    ) -> None:
        """`metadata` says whose session it is; `unbind` is called with each handle whose opening fails."""
        self._peers = peers
        self._call = rpc.MemoryDataStub(peers.channel(peer)).Session(metadata=metadata)
        self.peer = peer
        self._hello = hello
        self._answers = answers
        self._unbind = unbind
        self._unanswered: set[int] = set()
        self._opening: dict[int, int] = {}
        """Request ids of `open`s without an answer, with the handles they are for"""
        self._welcomed = anyio.Event()
        self.lost = False
        self._given_up = False

    @property
    def idle(self) -> bool:
        """No answer is to be expected."""
        return not self._unanswered

    @property
    def unanswered(self) -> Set[int]:
        """Ids of the requests that were passed on and are not answered."""
        return self._unanswered

    async def run(self) -> None:
        """Pass answers back until the owner ends the session, or drains and has answered; then fail what is left."""
        try:
            with self._peers.track_call(self.peer, self._give_up):
                if await self._greet():
                    while isinstance(frame := await self._call.read(), pb.SessionResponse):
                        await self._pass_back(frame)
                        if self.lost and self.idle:
                            break
        except (grpc.RpcError, aio.UsageError, asyncio.InvalidStateError):
            pass  # it is lost, and whatever waits is told so
        except asyncio.CancelledError:
            if not self._given_up:
                raise
        finally:
            self._call.cancel()
            self.lose()

    async def send(self, frame: pb.SessionRequest, request_ids: Iterable[int] = ()) -> None:
        """Pass a frame on, as fast as the owner takes it; the ids are those that it will answer."""
        ids = set(request_ids)
        self._unanswered |= ids
        if frame.HasField("open"):
            self._opening[frame.open.request_id] = frame.open.handle
        await self._welcomed.wait()
        if self.lost:
            self._fail(ids & self._unanswered)
            return
        try:
            await self._call.write(frame)
        except (grpc.RpcError, aio.UsageError, asyncio.InvalidStateError):
            self.lose()
        except asyncio.CancelledError:
            if not self._given_up:
                raise

    def _give_up(self) -> None:
        """End the session with an owner that owns nothing any more, and has had time to answer."""
        self._given_up = True
        self._call.cancel()
        self.lose()

    def lose(self) -> None:
        """Fail everything unanswered; handles bound here must be opened anew."""
        self.lost = True
        self._welcomed.set()
        self._fail(set(self._unanswered))

    def _fail(self, request_ids: Iterable[int]) -> None:
        for request_id in request_ids:
            self._forget([request_id], failed=True)
            self._answers.put(PendingResponse(unreachable_error(self.peer), request_id))

    def _forget(self, request_ids: Sequence[int], *, failed: bool = False) -> None:
        self._unanswered.difference_update(request_ids)
        for request_id in request_ids:
            handle = self._opening.pop(request_id, None)
            if failed and handle is not None:
                self._unbind(handle)

    async def _greet(self) -> bool:
        with anyio.move_on_after(WELCOME_TIMEOUT_S):
            await self._call.write(pb.SessionRequest(hello=self._hello))
            answer = await self._call.read()
            if isinstance(answer, pb.SessionResponse) and answer.HasField("welcome"):
                self._welcomed.set()
                return True
        return False

    async def _pass_back(self, frame: pb.SessionResponse) -> None:
        """Hand a frame on, and forget the requests that it answers."""
        weight = 0
        kind = frame.WhichOneof("frame")
        if kind in BY_ANSWER:
            answered = getattr(frame, kind)
            self._forget(answered.request_ids)
            weight = sum(getattr(answered, "patterns", ()))
        elif kind == "trajectory":
            weight = len(frame.trajectory.energy)
        elif kind == "failures":
            self._forget([failure.request_id for failure in frame.failures.failures], failed=True)
        elif kind == "opened":
            frame.opened.route = self.peer.address
            self._forget([frame.opened.request_id])
        else:
            self.lost = True  # it drains: nothing new goes there
            return
        await self._answers.reserve(weight)
        self._answers.put(PendingResponse(frame, weight=weight))
