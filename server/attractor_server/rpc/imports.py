"""Import of a memory from the pieces of a file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import anyio.to_thread
import numpy as np

from attractor_proto.v1 import memory_copies_pb2 as pb
from attractor_proto.v1.memories_pb2 import Memory
from attractor_server.errors import InvalidRequest, ModelGone, SettingsError, quote
from attractor_server.identity.access import Access
from attractor_server.identity.grants import Role
from attractor_server.memories.items import LOOSE_PAGES, SHELF_ITEMS
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.names import check_name, namespace_of
from attractor_server.memories.records import Call, Change, Entry, Floats, Image, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.memories.store import LEFTOVER_PAGES
from attractor_server.rpc.codec import Patterns
from attractor_server.rpc.dedup import read_call
from attractor_server.rpc.messages import read_items, read_settings
from attractor_server.rpc.validation import check_values
from attractor_server.shard.budget import Account
from attractor_server.shard.shard import Shard

NUMBERS_END = 1 << 62
"""End of versions, patterns and pages: stores count with 64 bits, and a memory goes on from its imported numbers"""

PAGE_COPIES = 3
"""Copies of an imported page: as it came, in one piece, and on its way to the store"""


@dataclass
class _Open:
    """The page whose pieces are coming."""

    head: pb.PagePiece
    weights: bytearray = field(default_factory=bytearray)
    entries: dict[int, list[Entry]] = field(default_factory=dict)
    """By version, each in the pieces in which it came"""
    held: int = 0
    """Patterns in them"""


class Importing:
    """Takes pieces, checks each, and puts page after page in the store, where nobody reaches them before the end."""

    def __init__(self, shard: Shard, account: Account, access: Access) -> None:
        self._shard = shard
        self._access = access
        self._account = account
        self._held_bytes = 0
        """Room taken from the account for the open page"""
        self._digest = hashlib.sha256()
        self._name = ""
        self._call: Call | None = None
        self._head: pb.Head | None = None
        self._model: ModelCard | None = None
        self._page: _Open | None = None
        self._last = -1
        self._patterns = 0
        self._begun: int | None = None
        self._whole = False
        self._digest_begun = False
        self._pages = 0

    async def take(self, request: pb.ImportRequest) -> None:
        """Take one more piece.

        Raises:
            InvalidRequest: it cannot be meant here.
            ModelGone: the memory is of a model that is not served.
        """
        piece = request.piece
        kind = piece.WhichOneof("part")
        if self._head is None:
            _expect(kind == "head", "piece", f"saw {kind}", "a head, first")
            self._call = read_call(request, "Import", request.name or piece.head.memory.name, self._access)
            await self._begin(piece.head, request.name)
        elif self._whole:
            raise InvalidRequest.of("piece", f"saw {kind} after the tail; expected nothing more")
        match kind:
            case "head":
                _expect(not self._digest_begun, "piece", "saw a second head", "one, first")
                self._digest_begun = True
            case "page":
                await self._flush()
                self._open(piece.page)
            case "weights" | "entry":
                _expect(self._page is not None, "piece", f"saw {kind} before any page", "a page")
                self._check_length(piece)
                await self._hold(piece.ByteSize())
                self._add(piece)
            case "tail":
                await self._flush()
                _expect(
                    piece.tail.sha256 == self._digest.digest(), "piece.tail", "saw another sha256", "that of the pieces"
                )
                _expect(
                    self._patterns == self._head_.memory.patterns,
                    "piece.tail",
                    f"saw {self._patterns} patterns in all pages",
                    f"{self._head_.memory.patterns}, as the head says",
                )
                self._whole = True
        self._digest.update(piece.SerializeToString(deterministic=True))

    async def end(self) -> StoredMemory:
        """Return the memory, once its last piece was taken.

        Raises:
            InvalidRequest: there are pieces missing.
            NameTaken: by another memory.
        """
        _expect(self._whole, "piece", "saw the end before the tail", "all pieces of the memory")
        draft = self._begun
        assert draft is not None
        made = await self._shard.memories.ask(lambda store: store.end_import(draft, self._name, call=self._call))
        self._begun = None
        return made

    async def abandon(self) -> None:
        """Leave nothing of a memory that has not ended."""
        if (draft := self._begun) is not None:
            while await self._shard.memories.ask(lambda store: store.shorten(draft, pages=LEFTOVER_PAGES)):
                pass
            await self._shard.memories.ask(lambda store: store.forget_unreached(draft))

    @property
    def _head_(self) -> pb.Head:
        assert self._head is not None
        return self._head

    async def _begin(self, head: pb.Head, name: str) -> None:
        memory = head.memory
        self._name = name or memory.name
        check_name(self._name)
        self._access.check(self._name, Role.WRITE, field="name" if name else "piece.head.memory.name")
        self._shard.rates.check(namespace_of(self._name), requests=1)
        model = next((one for one in self._shard.models.values() if one.digest == memory.model_digest), None)
        if model is None:
            raise ModelGone(
                f"the memory is of model {quote(memory.model)} ({quote(memory.model_digest)}), which this server "
                "does not have: put its file in the folder of --models and start again"
            )
        _check_number(memory.version, "piece.head.memory.version")
        _check_number(memory.patterns, "piece.head.memory.patterns")
        settings = _read_head_settings(memory, model)
        stored = StoredMemory(
            id=0,
            name=self._name,
            model=model.name,
            model_digest=model.digest,
            settings=settings,
            created_s=0.0,
            version=memory.version,
            patterns=memory.patterns,
        )
        self._head, self._model = head, model
        self._begun = await self._shard.memories.ask(lambda store: store.begin_import(stored))

    def _open(self, page: pb.PagePiece) -> None:
        assert self._model is not None
        _expect(page.number > self._last, "piece.page.number", f"saw {page.number}", f"more than {self._last}")
        _check_number(page.number, "piece.page.number")
        _check_number(page.patterns, "piece.page.patterns")
        if page.number >= LOOSE_PAGES:
            self._open_shelf(page)
            return
        self._pages += 1
        settings = _read_head_settings(self._head_.memory, self._model)
        _expect(
            settings.most_pages is None or self._pages <= settings.most_pages,
            "piece.page",
            f"saw {self._pages} pages",
            f"at most {settings.most_pages} of a memory that was made to {settings.when_full}",
        )
        _expect(
            page.patterns <= settings.page_patterns,
            "piece.page.patterns",
            f"saw {page.patterns}",
            f"at most {settings.page_patterns}, as the head says",
        )
        expected = (0, *dict.fromkeys((self._model.weights_bytes, self._model.page_bytes)))
        seen = f"saw {page.weights_bytes}"
        _expect(page.weights_bytes in expected, "piece.page.weights_bytes", seen, f"one of {expected}")
        self._check_version(page.version, "piece.page.version")
        self._page, self._last = _Open(page), page.number

    def _open_shelf(self, page: pb.PagePiece) -> None:
        """Take a page of items without a pattern."""
        _expect(
            page.patterns <= SHELF_ITEMS,
            "piece.page.patterns",
            f"saw {page.patterns}",
            f"at most {SHELF_ITEMS} of them",
        )
        _expect(page.weights_bytes == 0, "piece.page.weights_bytes", f"saw {page.weights_bytes}", "0 of such a page")
        self._page, self._last = _Open(page), page.number

    def _check_length(self, piece: pb.Piece) -> None:
        """Refuse more weights than the page has, as soon as there are any."""
        assert self._page is not None
        seen, expected = len(self._page.weights) + len(piece.weights), self._page.head.weights_bytes
        _expect(seen <= expected, "piece.weights", f"saw {seen} bytes", f"at most {expected}, as the page says")

    async def _hold(self, size_bytes: int) -> None:
        """Take room for a piece of a page, until that is in the store.

        Raises:
            MemoryShort: there was no room for a while.
        """
        size_bytes *= PAGE_COPIES
        await self._account.take(size_bytes)
        self._held_bytes += size_bytes

    def _add(self, piece: pb.Piece) -> None:
        page, model = self._page, self._model
        assert page is not None
        assert model is not None
        if piece.WhichOneof("part") == "weights":
            page.weights += piece.weights
            return
        part = piece.entry
        if page.head.number >= LOOSE_PAGES:
            _expect(not part.vectors, "piece.entry.vectors", f"saw {len(part.vectors)} bytes", "none of such a page")
            _expect(bool(part.items), "piece.entry.items", "saw none", "some")
            values = np.zeros((len(part.items), 0), np.float32)
        else:
            values = _read_vectors(part.vectors, model)
        items = read_items(part.items, patterns=len(values), where="piece.entry.items", timed=True)
        self._check_version(part.version, "piece.entry.version")
        _expect(
            0 < part.written <= part.version,
            "piece.entry.written",
            f"saw {part.written}",
            f"1 to {part.version}, the entry's version",
        )
        pieces = page.entries.setdefault(part.version, [])
        pieces.append(
            Entry(page=page.head.number, version=part.version, written=part.written, values=values, items=items)
        )
        whole = bool(pieces[0].items) == bool(items)
        _expect(whole, "piece.entry.items", f"saw {len(items)}", "one a pattern in all pieces of a version, or none")
        page.held += len(values)
        held = f"saw {page.held} patterns"
        _expect(page.held <= page.head.patterns, "piece.entry", held, f"at most {page.head.patterns}")

    async def _flush(self) -> None:
        """Put the open page in the store."""
        page, self._page = self._page, None
        if page is None:
            return
        head = page.head
        seen = f"saw {len(page.weights)} bytes"
        _expect(len(page.weights) == head.weights_bytes, "piece.weights", seen, f"{head.weights_bytes}")
        enough = bool(page.weights) or page.held == head.patterns
        _expect(enough, "piece.page", f"saw {page.held} patterns and no weights", f"{head.patterns} patterns")
        content = bytes(page.weights)
        if content:
            assert self._model is not None
            meant = await anyio.to_thread.run_sync(self._model.takes_image, content)
            _expect(meant, "piece.weights", "saw NaN, infinity or a scale of zero", "finite numbers")
        entries = await anyio.to_thread.run_sync(lambda: list(map(_join, page.entries.values())))
        assert self._begun is not None
        image = Image(page=head.number, version=head.version, content=content)
        change = Change(
            memory=self._begun,
            version=0,
            patterns=0,
            pages={head.number: head.patterns},
            entries=entries,
            images=[image] if page.weights else [],
        )
        self._patterns += head.patterns if head.number < LOOSE_PAGES else 0
        await self._shard.memories.ask(lambda store: store.add_pages(change))
        held_bytes, self._held_bytes = self._held_bytes, 0
        self._account.give(held_bytes)

    def _check_version(self, version: int, where: str) -> None:
        last = self._head_.memory.version
        _expect(version <= last, where, f"saw {version}", f"at most {last}, the memory's own")


def _read_vectors(vectors: bytes, model: ModelCard) -> Floats:
    """Return the patterns of a piece.

    Raises:
        InvalidRequest: they are none of the model.
    """
    length, each = len(vectors), 4 * model.layout.size
    _expect(length > 0 and length % each == 0, "piece.entry.vectors", f"saw {length} bytes", f"{each} each")
    values = np.frombuffer(vectors, "<f4").reshape(-1, model.layout.size)
    check_values(model.layout, Patterns(values, None), where="piece.entry.vectors")
    return values


def _join(pieces: Sequence[Entry]) -> Entry:
    """Return one entry of all its pieces."""
    if len(pieces) == 1:
        return pieces[0]
    items = [item for piece in pieces for item in piece.items]
    return replace(pieces[-1], values=np.concatenate([piece.values for piece in pieces]), items=items)


def _read_head_settings(memory: Memory, model: ModelCard) -> MemorySettings:
    usual = MemorySettings(page_patterns=model.capacity)
    try:
        return replace(usual, **read_settings(memory.settings, capacity=model.capacity))
    except SettingsError as error:
        raise InvalidRequest.of("piece.head.memory.settings", error.message) from error


def _check_number(number: int, where: str) -> None:
    """Refuse a number that no store can count on from."""
    _expect(number < NUMBERS_END, where, f"saw {number}", f"less than {NUMBERS_END}")


def _expect(right: bool, where: str, seen: str, expected: str) -> None:
    if not right:
        raise InvalidRequest.of(where, f"{seen}; expected {expected}")
