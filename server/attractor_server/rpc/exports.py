"""Export of a memory as pieces, which a file keeps."""

import hashlib
from collections.abc import AsyncGenerator, Iterator, Sequence

import numpy as np

from attractor_proto.names import PAYLOAD_LIMIT_BYTES
from attractor_proto.v1 import memory_copies_pb2 as pb
from attractor_server.memories.items import LOOSE_PAGES
from attractor_server.memories.memory import record_of
from attractor_server.memories.records import Entry, StoredMemory, StoredPage
from attractor_server.rpc.messages import encode_items, encode_memory
from attractor_server.shard.directory import MemoryDirectory

PIECE_BYTES = 1 << 20
"""Weights and values in one piece, about"""


async def read_pieces(memories: MemoryDirectory, name: str, stored: StoredMemory) -> AsyncGenerator[pb.Piece, None]:
    """Yield all pieces of a memory that nobody changes; a page is read when those before it are sent."""
    digest = hashlib.sha256()
    head = pb.Head(memory=encode_memory(record_of(stored)))
    head.memory.name = name
    yield _hash(pb.Piece(head=head), digest)
    for row in stored.pages:
        for piece in _split_page(row.number, row.patterns, await _read_page(memories, stored.id, row.number)):
            yield _hash(piece, digest)
    number = LOOSE_PAGES
    while (shelf := await _read_shelf(memories, stored.id, number)) is not None:
        number, entries = shelf
        patterns = sum(len(entry.values) for entry in entries)
        for piece in _split_page(number, patterns, StoredPage(image=None, entries=entries)):
            yield _hash(piece, digest)
        number += 1
    yield pb.Piece(tail=pb.Tail(sha256=digest.digest()))


async def _read_page(memories: MemoryDirectory, memory: int, number: int) -> StoredPage:
    return await memories.ask(lambda store: store.page(memory, number, all_entries=True))


async def _read_shelf(memories: MemoryDirectory, memory: int, number: int) -> tuple[int, Sequence[Entry]] | None:
    """Return the first page with that number or a higher one, of items without a pattern."""
    return await memories.ask(lambda store: store.find_entries(memory, number))


def _split_page(number: int, patterns: int, page: StoredPage) -> Iterator[pb.Piece]:
    weights, version = (b"", 0) if page.image is None else (page.image.content, page.image.version)
    yield pb.Piece(page=pb.PagePiece(number=number, patterns=patterns, weights_bytes=len(weights), version=version))
    for start in range(0, len(weights), PIECE_BYTES):
        yield pb.Piece(weights=weights[start : start + PIECE_BYTES])
    for entry in page.entries:
        rows = max(1, PIECE_BYTES // (entry.values[0].nbytes or PAYLOAD_LIMIT_BYTES))
        for start in range(0, len(entry.values), rows):
            part = slice(start, start + rows)
            vectors = np.ascontiguousarray(entry.values[part], "<f4").tobytes()
            items = encode_items(entry.items[part])
            yield pb.Piece(
                entry=pb.EntryPiece(version=entry.version, written=entry.written, vectors=vectors, items=items)
            )


def _hash(piece: pb.Piece, digest: "hashlib._Hash") -> pb.Piece:
    digest.update(piece.SerializeToString(deterministic=True))
    return piece
