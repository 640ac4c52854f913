"""An import is held to what `attractor verify` expects of a store."""

from collections.abc import Callable

import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import tensor
from tests.support.shards import serving
from tests.support.tiny_models import images

from attractor_proto.v1 import memories_pb2, memory_copies_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_copies_pb2 as pb
from attractor_proto.v1.memory_data_pb2 import StoreRequest
from attractor_server.shard.spec import ShardSpec

Pieces = list[pb.Piece]
NAN = np.full(1, np.nan, "<f4").tobytes()


def part(pieces: Pieces, kind: str) -> pb.Piece:
    return next(piece for piece in pieces if piece.WhichOneof("part") == kind)


def change(kind: str, path: str, value: object) -> Callable[[Pieces], None]:
    def changed(pieces: Pieces) -> None:
        *before, last = path.split(".")
        message = part(pieces, kind)
        for name in (kind, *before):
            message = getattr(message, name)
        setattr(message, last, value)

    return changed


def not_finite(pieces: Pieces) -> None:
    piece = part(pieces, "weights")
    piece.weights = NAN + piece.weights[4:]


BAD = {
    "a version beyond numbers": ("head.memory.version", change("head", "memory.version", 2**63 - 1)),
    "patterns beyond numbers": ("head.memory.patterns", change("head", "memory.patterns", 2**64 - 1)),
    "a page beyond numbers": ("page.number", change("page", "number", 2**63 - 1)),
    "a page beyond its capacity": ("page.patterns", change("page", "patterns", 5000)),
    "two pages where one is refused": (
        "page",
        change("head", "memory.settings.when_full", memories_pb2.WHEN_FULL_REFUSE),
    ),
    "two heads": ("", lambda pieces: pieces.insert(1, pieces[0])),
    "never written": ("entry.written", change("entry", "written", 0)),
    "written after it was there": ("entry.written", change("entry", "written", 2**63 - 1)),
    "an entry of no version": ("entry.written", change("entry", "version", 0)),
    "weights that are no numbers": ("weights", not_finite),
}


async def test_what_verify_would_name_is_refused_and_a_real_export_is_not(on_disk: ShardSpec) -> None:
    async with serving(on_disk) as (shard,), aio.insecure_channel(shard.info.address) as channel:
        await raw.create(channel, "a", settings=memories_pb2.MemorySettings(page_patterns=4))
        store = memory_data_pb2_grpc.MemoryDataStub(channel).Store
        for seed in range(5):
            await store(StoreRequest(memory="a", tensors=[tensor(images(1, seed))]))
        copies = memory_copies_pb2_grpc.CopiesStub(channel)
        pieces = [answer.piece async for answer in copies.Export(pb.ExportRequest(name="a"))]
        for case, (field, spoil) in BAD.items():
            bad = [pb.Piece.FromString(piece.SerializeToString()) for piece in pieces]
            spoil(bad)
            with pytest.raises(aio.AioRpcError) as caught:
                await copies.Import(iter([pb.ImportRequest(name="b", piece=piece) for piece in bad]))
            assert caught.value.code() is StatusCode.INVALID_ARGUMENT, case
            seen, words = raw.violation(raw.status_of(caught.value))
            assert seen == f"piece.{field}".rstrip("."), case
            assert words.startswith("saw "), case
            assert "expected " in words, case
        await copies.Import(iter([pb.ImportRequest(name="b", piece=piece) for piece in pieces]))
        assert await raw.state(channel, "b") == (5, 5)
