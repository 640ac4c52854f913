"""Calls about copies of memories: forks, snapshots, exported files, and memories built anew."""

import asyncio
import errno
import os
import shutil
import struct
import tempfile
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import UTC
from functools import partial
from os import PathLike
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TypeAlias

import anyio
import grpc
from anyio import to_thread
from google.protobuf.message import DecodeError
from grpc import aio

from attractor._errors import InvalidRequest, ServerFault, from_rpc
from attractor._session.channel import Channel
from attractor._token import Metadata
from attractor._types import MemoryInfo, SnapshotInfo
from attractor._unary import UnaryCalls, decode_memory
from attractor_proto.names import MESSAGE_LIMIT_BYTES
from attractor_proto.v1 import memory_copies_pb2 as pb

FilePath: TypeAlias = str | PathLike[str]

_SNAPSHOTS_PAGE = 1000
_FIRST_LINE = b"attractor memory 1\n"
_LENGTH = struct.Struct("<I")
_ENDED = (grpc.RpcError, aio.UsageError, asyncio.InvalidStateError)
"""Errors that gRPC raises for a write to a call that has ended"""


class SnapshotCalls:
    """Calls about copies, through the client's unary calls."""

    def __init__(self, unary: UnaryCalls) -> None:
        self._unary = unary

    async def fork(self, name: str, target: str, tag: str, deadline_s: float) -> MemoryInfo:
        """Make a memory with all that another one has, or had at a snapshot."""
        request = pb.ForkRequest(name=name, target=target, tag=tag, call=self._unary.number_call())
        return decode_memory((await self._unary.call(lambda to: to.copies.Fork, request, deadline_s)).memory)

    async def take(self, name: str, tag: str, deadline_s: float) -> SnapshotInfo:
        """Take a snapshot."""
        request = pb.TakeSnapshotRequest(name=name, tag=tag, call=self._unary.number_call())
        return _decode_snapshot(
            (await self._unary.call(lambda to: to.copies.TakeSnapshot, request, deadline_s)).snapshot
        )

    async def list_all(self, name: str, deadline_s: float) -> list[SnapshotInfo]:
        """Return all snapshots of a memory, the oldest first."""
        found: list[SnapshotInfo] = []
        request = pb.ListSnapshotsRequest(name=name, page_size=_SNAPSHOTS_PAGE)
        while True:
            response = await self._unary.call(lambda to: to.copies.ListSnapshots, request, deadline_s)
            found += map(_decode_snapshot, response.snapshots)
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def forget(self, name: str, tag: str, deadline_s: float) -> None:
        """Forget a snapshot."""
        request = pb.ForgetSnapshotRequest(name=name, tag=tag, call=self._unary.number_call())
        await self._unary.call(lambda to: to.copies.ForgetSnapshot, request, deadline_s)

    async def restore(self, name: str, tag: str, deadline_s: float) -> MemoryInfo:
        """Restore a memory as it was at a snapshot."""
        request = pb.RestoreRequest(name=name, tag=tag, call=self._unary.number_call())
        return decode_memory((await self._unary.call(lambda to: to.copies.Restore, request, deadline_s)).memory)

    async def rebuild(self, request: pb.RebuildRequest, deadline_s: float) -> MemoryInfo:
        """Write a memory anew, as the request says, which gets its number here."""
        request.call.CopyFrom(self._unary.number_call())
        return decode_memory((await self._unary.call(lambda to: to.copies.Rebuild, request, deadline_s)).memory)

    async def export(self, name: str, path: FilePath, deadline_s: float) -> None:
        """Write a memory to a file, which is there whole or not at all; begin anew after UNAVAILABLE."""
        request = pb.ExportRequest(name=name)
        await self._unary.call(lambda to: partial(self._download, to, anyio.Path(path)), request, deadline_s)

    async def import_(self, path: FilePath, name: str, deadline_s: float) -> MemoryInfo:
        """Make a memory from a file, which is read anew for each repeat."""
        request = pb.ImportRequest(name=name, call=self._unary.number_call())
        response = await self._unary.call(lambda to: partial(self._upload, to, path), request, deadline_s)
        return decode_memory(response.memory)

    async def _upload(
        self,
        to: Channel,
        path: FilePath,
        request: pb.ImportRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        metadata: Metadata = (),
    ) -> pb.ImportResponse:
        call = to.copies.Import(timeout=timeout, metadata=metadata)
        try:
            async with await anyio.open_file(path, "rb") as file:
                await _send_pieces(call, file, str(path), request)
            return await call
        finally:
            call.cancel()

    async def _download(
        self,
        to: Channel,
        target: anyio.Path,
        request: pb.ExportRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        metadata: Metadata = (),
    ) -> None:
        replaces, folder = await to_thread.run_sync(_find_target, str(target))
        draft = anyio.Path(folder) / f".{uuid.uuid4().hex}.attractor"
        try:
            async with (
                await anyio.open_file(draft, "xb") as file,
                aclosing(self._read_pieces(to, request, timeout, metadata)) as pieces,
            ):
                await file.write(_FIRST_LINE)
                async for piece in pieces:
                    content = piece.SerializeToString(deterministic=True)
                    await file.write(_LENGTH.pack(len(content)) + content)
            if replaces:
                await draft.replace(replaces)
            else:
                await to_thread.run_sync(_copy_content, str(draft), str(target))
        finally:
            with anyio.CancelScope(shield=True):
                await draft.unlink(missing_ok=True)

    async def _read_pieces(
        self, to: Channel, request: pb.ExportRequest, timeout_s: float | None, metadata: Metadata
    ) -> AsyncGenerator[pb.Piece, None]:
        call = to.copies.Export(request, timeout=timeout_s, metadata=metadata)
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


def _find_target(target: str) -> tuple[str, str]:
    """Return the file that an export replaces, behind symbolic links, and the folder for its draft, on the same disk.

    A pipe or a device is not replaced, and "" is returned for it: the draft's content is written to it.
    """
    special = target.startswith(("/dev/", "/proc/"))
    with suppress(FileNotFoundError):
        mode = Path(target).stat().st_mode
        special = special or not (S_ISREG(mode) or S_ISDIR(mode))
    if special:
        return "", tempfile.gettempdir()
    real = Path(target).resolve()
    if real.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    return str(real), str(real.parent)


def _copy_content(draft: str, target: str) -> None:
    with Path(draft).open("rb") as source, Path(target).open("wb") as sink:
        shutil.copyfileobj(source, sink)


async def _send_pieces(
    call: "aio.StreamUnaryCall[pb.ImportRequest, pb.ImportResponse]",
    file: "anyio.AsyncFile[bytes]",
    path: str,
    request: pb.ImportRequest,
) -> None:
    """Send the pieces of a file, the first with the request's name and number.

    Return early where the server has ended the call: the call itself says why.

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
            piece = pb.Piece.FromString(content)
        except DecodeError:
            start = await file.tell() - length
            raise InvalidRequest.of("path", f"saw {path!r}, which is damaged at byte {start} or behind it") from None
        try:
            await call.write(pb.ImportRequest(name=request.name, call=request.call, piece=piece))
        except _ENDED:
            return
        request = pb.ImportRequest()
    with suppress(*_ENDED):
        await call.done_writing()


def _decode_snapshot(snapshot: pb.Snapshot) -> SnapshotInfo:
    return SnapshotInfo(
        tag=snapshot.tag,
        version=snapshot.version,
        patterns=snapshot.patterns,
        created=snapshot.created.ToDatetime(UTC),
    )
