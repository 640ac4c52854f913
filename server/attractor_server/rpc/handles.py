"""Handles of a session: memories of this shard that are bound here, and sessions with the owners of the others."""

from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.errors import Exhausted, InvalidRequest, OwnerChanged, ServerError
from attractor_server.identity.access import Access
from attractor_server.identity.grants import Role
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.names import check_name
from attractor_server.rpc.dedup import find_client
from attractor_server.rpc.errors import to_server_error
from attractor_server.rpc.forwarding import ForwardedSession
from attractor_server.rpc.peers import Peers, disagreement_error
from attractor_server.rpc.responses import PendingResponse, ResponseQueue
from attractor_server.scheduling.jobs import Origin
from attractor_server.shard.shard import Shard
from attractor_server.sharding.topology import ShardInfo

Bound: TypeAlias = MemoryRecord | ForwardedSession

OPENING_LIMIT = 1024
"""Handles of a session that are being bound"""


class HandleTable:
    """Binds handles, each to a memory here or to a session with its owner. Use it from one task."""

    def __init__(  # noqa: PLR0913 - both ends of a session, and what lies between
        self,
        shard: Shard,
        peers: Peers,
        answers: ResponseQueue,
        hello: pb.Hello,
        origin: Origin,
        access: Access,
        *,
        forwarded: bool,
    ) -> None:
        """`hello` begins sessions with owners, for `origin`; where this one is `forwarded` itself, there are none.

        `access` says which memories the client may open.
        """
        self._shard = shard
        self._peers = peers
        self._answers = answers
        self._hello = hello
        self._origin = origin
        self._access = access
        self._forwarded = forwarded
        self.bound: dict[int, Bound] = {}
        self.opening: dict[int, anyio.Event] = {}
        """Handles whose memories are looked up in the store, many at a time"""
        self.upstreams: list[ForwardedSession] = []
        """One for each owner; of an owner that drains the old one too, until it has answered"""
        self._counted: dict[int, str] = {}
        """Names of memories of this shard, by handles that are counted"""

    async def open(self, frame: pb.Open, tasks: TaskGroup) -> None:
        """Begin to bind a handle; its answer follows."""
        try:
            if frame.handle in self.bound or frame.handle in self.opening:
                bound = f"saw {frame.handle}, which is bound; expected one that is free"
                raise InvalidRequest.of("open.handle", bound)
            if len(self.bound) + len(self.opening) >= (limit := self._shard.limits.session_handles):
                raise Exhausted(f"open: this session has {limit} handles, the most it can: close some")
            check_name(frame.memory, field="open.memory")
            self._access.check(frame.memory, Role.READ, field="open.memory")
            if peer := self._shard.owner(frame.memory, field="open.memory"):
                upstream = self.bound[frame.handle] = await self._open_upstream(peer, tasks)
                await upstream.send(pb.SessionRequest(open=frame), [frame.request_id])
                return
        except OwnerChanged:
            pass  # it is on its way here
        except ServerError as error:
            self._answers.put(PendingResponse(error, frame.request_id))
            return
        if len(self.opening) >= OPENING_LIMIT:
            await self.wait_for_all()
        try:
            self._shard.occupancy.open(self._client, frame.memory)
        except ServerError as error:
            self._answers.put(PendingResponse(error, frame.request_id))
            return
        self._counted[frame.handle] = frame.memory
        self.opening[frame.handle] = anyio.Event()
        tasks.start_soon(self._open_here, frame)

    async def wait_for_all(self) -> None:
        """Wait until the handles that are being bound now are, or cannot be."""
        await self.wait_for(*self.opening)

    async def wait_for(self, *handles: int) -> None:
        """Wait until these handles are bound, or cannot be."""
        for handle in handles:
            if (opening := self.opening.get(handle)) is not None:
                await opening.wait()

    async def close(self, frame: pb.Close) -> None:
        """Unbind a handle."""
        await self.wait_for(frame.handle)
        bound = self.bound.pop(frame.handle, None)
        self._count_off(frame.handle)
        if isinstance(bound, ForwardedSession) and not bound.lost:
            await bound.send(pb.SessionRequest(close=frame))

    async def _open_here(self, frame: pb.Open) -> None:
        try:
            await self._shard.wait_for_arrival(frame.memory)
            record = self.bound[frame.handle] = await self._shard.memories.get(frame.memory)
        except Exception as error:
            self._count_off(frame.handle)
            self._answers.put(PendingResponse(to_server_error(error, "an open"), frame.request_id))
            return
        finally:
            self.opening.pop(frame.handle).set()
        opened = pb.Opened(
            request_id=frame.request_id,
            handle=frame.handle,
            model=record.model,
            last_sequence=record.last_sequence(find_client(record, self._access, self._hello.client_id)),
        )
        self._answers.put(PendingResponse(pb.SessionResponse(opened=opened)))

    async def _open_upstream(self, peer: ShardInfo, tasks: TaskGroup) -> ForwardedSession:
        if self._forwarded:
            raise disagreement_error()
        self.upstreams = [upstream for upstream in self.upstreams if not (upstream.lost and upstream.idle)]
        for upstream in self.upstreams:
            if upstream.peer.address == peer.address and not upstream.lost:
                return upstream
        metadata = await self._peers.fellows.make_metadata(self._origin, self._access.principal)
        upstream = ForwardedSession(self._peers, peer, metadata, self._hello, self._answers, self._unbind)
        self.upstreams.append(upstream)
        tasks.start_soon(upstream.run)
        return upstream

    def leave(self) -> None:
        """Count the handles of this session no more."""
        for handle in list(self._counted):
            self._count_off(handle)

    def _count_off(self, handle: int) -> None:
        if (name := self._counted.pop(handle, None)) is not None:
            self._shard.occupancy.close(self._client, name)

    @property
    def _client(self) -> str:
        return self._access.scope(self._hello.client_id)

    def _unbind(self, handle: int) -> None:
        self.bound.pop(handle, None)
