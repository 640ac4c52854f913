"""Copies of memories: forks, snapshots, files, and memories made anew."""

import struct
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC
from os import PathLike
from typing import TypeAlias

import anyio
import grpc
from grpc import aio

from attractor._control import Control, memory_info
from attractor._errors import InvalidRequest, ServerFault, from_rpc
from attractor._types import MemoryInfo, SnapshotInfo
from attractor_proto.names import MESSAGE_LIMIT_BYTES
from attractor_proto.v1 import memory_copies_pb2 as pb

FilePath: TypeAlias = str | PathLike[str]

_FIRST_LINE = b"attractor memory 1\n"
_LENGTH = struct.Struct("<I")


class Copies:
    """Calls about copies, by way of the client's unary calls."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._stub = control.channel.copies

    async def fork(self, name: str, target: str, tag: str, deadline_s: float) -> MemoryInfo:
        """A memory with what another one has, or had at a snapshot."""
        request = pb.ForkRequest(name=name, target=target, tag=tag)
        return memory_info((await self._control.call(lambda to: to.copies.Fork, request, deadline_s)).memory)

    async def snapshot(self, name: str, tag: str, deadline_s: float) -> SnapshotInfo:
        """Keeps a memory as it is."""
        request = pb.TakeSnapshotRequest(name=name, tag=tag)
        return _snapshot((await self._control.call(lambda to: to.copies.TakeSnapshot, request, deadline_s)).snapshot)

    async def snapshots(self, name: str, deadline_s: float) -> list[SnapshotInfo]:
        """Of a memory, the oldest first."""
        request = pb.ListSnapshotsRequest(name=name)
        return list(
            map(
                _snapshot, (await self._control.call(lambda to: to.copies.ListSnapshots, request, deadline_s)).snapshots
            )
        )

    async def forget_snapshot(self, name: str, tag: str, deadline_s: float) -> None:
        """Forgets a snapshot. That a repeat finds it gone is no failure."""
        request = pb.ForgetSnapshotRequest(name=name, tag=tag)
        fine = pb.ForgetSnapshotResponse()
        await self._control.call(lambda to: to.copies.ForgetSnapshot, request, deadline_s, fine_in_repeat=fine)

    async def restore(self, name: str, tag: str, deadline_s: float) -> MemoryInfo:
        """Makes a memory what it was."""
        request = pb.RestoreRequest(name=name, tag=tag)
        return memory_info((await self._control.call(lambda to: to.copies.Restore, request, deadline_s)).memory)

    async def rebuild(self, name: str, model: str, page_patterns: int, deadline_s: float) -> MemoryInfo:
        """Writes a memory anew."""
        request = pb.RebuildRequest(name=name, model=model, page_patterns=page_patterns)
        return memory_info((await self._control.call(lambda to: to.copies.Rebuild, request, deadline_s)).memory)

    async def export(self, name: str, path: FilePath, deadline_s: float) -> None:
        """Writes a memory to a file, which is there whole or not at all."""
        target = anyio.Path(path)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            async with await anyio.open_file(draft, "xb") as file, aclosing(self._pieces(name, deadline_s)) as pieces:
                await file.write(_FIRST_LINE)
                async for piece in pieces:
                    content = piece.SerializeToString(deterministic=True)
                    await file.write(_LENGTH.pack(len(content)) + content)
            await draft.replace(target)
        finally:
            with anyio.CancelScope(shield=True):
                await draft.unlink(missing_ok=True)

    async def import_(self, path: FilePath, name: str, deadline_s: float) -> MemoryInfo:
        """Makes a memory of a file."""
        call = self._stub.Import(timeout=self._control.left_s(deadline_s))
        try:
            async with await anyio.open_file(path, "rb") as file:
                await _send(call, file, str(path), name)
            return memory_info((await call).memory)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        finally:
            call.cancel()

    async def _pieces(self, name: str, deadline_s: float) -> AsyncGenerator[pb.Piece, None]:
        call = self._stub.Export(pb.ExportRequest(name=name), timeout=self._control.left_s(deadline_s))
        last = None
        try:
            while isinstance(response := await call.read(), pb.ExportResponse):
                last = response.piece.WhichOneof("part")
                yield response.piece
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        finally:
            call.cancel()
        if last != "tail":
            raise ServerFault(f"the export ended with {last}; expected a tail")


async def _send(
    call: "aio.StreamUnaryCall[pb.ImportRequest, pb.ImportResponse]",
    file: "anyio.AsyncFile[bytes]",
    path: str,
    name: str,
) -> None:
    """Sends the pieces of a file; returns early where the server has said why it wants no more.

    Raises:
        InvalidRequest: it is no such file, or has been cut.
    """
    if await file.read(len(_FIRST_LINE)) != _FIRST_LINE:
        raise InvalidRequest.of("path", f"saw {path!r}, which is no exported memory; expected one that `export` wrote")
    while head := await file.read(_LENGTH.size):
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        content = await file.read(min(length, MESSAGE_LIMIT_BYTES))
        if not length or len(content) < length:
            raise InvalidRequest.of("path", f"saw {path!r}, which ends, or is damaged, at byte {await file.tell()}")
        try:
            await call.write(pb.ImportRequest(name=name, piece=pb.Piece.FromString(content)))
        except (grpc.RpcError, aio.UsageError):
            return  # the call itself tells why
        name = ""
    await call.done_writing()


def _snapshot(snapshot: pb.Snapshot) -> SnapshotInfo:
    return SnapshotInfo(
        tag=snapshot.tag,
        version=snapshot.version,
        patterns=snapshot.patterns,
        created=snapshot.created.ToDatetime(UTC),
    )
