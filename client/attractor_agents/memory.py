"""A memory of texts."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

import attractor
from attractor import Filter, InvalidRequest, MemoryNotFound, NotFound, SnapshotInfo, TimeoutExceeded, Unavailable
from attractor_agents import _notes
from attractor_agents._coder import DIMS, Coder, Rows
from attractor_agents._search import find_nearest, search, search_by_cosine
from attractor_agents._space import Space
from attractor_agents.encoders import Encoder, Floats
from attractor_agents.minilm import MiniLM
from attractor_agents.types import KNOWN, Hit, Metadata, Neighbour, Note, Recalled, Remembered, Seen
from attractor_agents.vectors import fit

Notes: TypeAlias = list[Note]
KeptItems: TypeAlias = list[attractor.KeptItem]
Texts: TypeAlias = list[str]
MODEL = "embedding-384"
UNLESS_SIMILAR = 0.97
"""Cosine from which two texts say the same"""
HITS_LIMIT = 1000
STORED_TOGETHER = 128
"""Texts of one store, where there are many"""
NOTHING = Recalled(hits=(), probability=0.0, total=0)
PAGE_SIZE = 1000
"""Items in one answer, where all are wanted"""


class AgentMemory(AbstractAsyncContextManager["AgentMemory"]):
    """Memory of an agent: texts with ids and metadata, in one memory of the server, its `space`.

    `AgentMemory.connect(…)` brings a client of its own; one that an application has already serves any number of
    spaces. The memory is made when something is first remembered: reading a space that is not there finds nothing.

    Its vectors are of one encoder, by default `MiniLM()`, whose name the memory keeps: another one is a `Conflict`.

    Every call raises the `AttractorError`s of `attractor.AsyncMemory`.
    """

    def __init__(
        self,
        client: attractor.AsyncClient,
        space: str,
        *,
        encoder: Encoder | None = None,
        timeout_s: float | None = None,
        fail_open: bool = False,
    ) -> None:
        """`timeout_s` bounds each request to the server (None: as the client does). With `fail_open` a `recall` whose
        server is away finds nothing, and says so; every other call raises `Unavailable`.
        """
        self._client = client
        self._owned: attractor.AsyncClient | None = None
        self._coder = Coder(MiniLM() if encoder is None else encoder)
        self._space = Space(client, space, self._coder.encoder.name, model=MODEL, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._fail_open = fail_open

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        space: str,
        encoder: Encoder | None = None,
        fail_open: bool = False,
        **options: Any,  # noqa: ANN401 - those of attractor.connect
    ) -> Self:
        """Return a memory with a client of its own, for an `async with`; `options` are those of `attractor.connect`."""
        client = attractor.connect(address, **options)
        memory = cls(client, space, encoder=encoder, fail_open=fail_open)
        memory._owned = client
        return memory

    def __repr__(self) -> str:
        return f"<attractor_agents.AgentMemory {self.space!r}>"

    async def __aenter__(self) -> Self:
        if self._owned is not None:
            await self._owned.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owned is not None:
            await self._owned.__aexit__(kind, error, traceback)

    @property
    def space(self) -> str:
        """Name of the memory on the server."""
        return self._space.name

    def at(self, space: str) -> "AgentMemory":
        """Return the memory of another space, by the same client and encoder."""
        return AgentMemory(
            self._client, space, encoder=self._coder.encoder, timeout_s=self._timeout_s, fail_open=self._fail_open
        )

    async def remember(
        self,
        text: str,
        *,
        id: str | None = None,  # noqa: A002 - its name everywhere
        metadata: Metadata | None = None,
        ttl_s: float | None = None,
        unless_similar: float | None = UNLESS_SIMILAR,
    ) -> Remembered:
        """Remember a text, unless one that says the same is there: with a cosine of `unless_similar` or more.

        One with an `id` replaces what has that id, whatever else there is. A long text gets several vectors; only one
        of the very same words is the same. It is forgotten after `ttl_s` seconds; None: never.
        """
        payload = _notes.encode_note(text, metadata)
        name = _make_id() if id is None else _notes.check_id(id)
        rows = await self._coder.encode_notes([(name, payload)])
        if id is not None or unless_similar is None:
            await self._store(rows, ttl_s)
            return Remembered(id=name, new=True)
        nearest = await self._find_best(rows.vectors[0], text)
        if len(rows.ids) > 1:
            if nearest is not None and nearest.text == text:
                return Remembered(id=nearest.id, new=False, nearest=nearest)
            await self._store(rows, ttl_s)
            return Remembered(id=name, new=True, nearest=nearest)
        result = await self._store(rows, ttl_s, unless_similar)
        is_new = result.existing == (None,) if result.existing else bool(await self.get(name))  # repeats do not say
        if is_new:
            return Remembered(id=name, new=True, nearest=nearest)
        best = await self._find_best(rows.vectors[0], text)  # which another writer may have stored just now
        there = next(iter(result.existing), None) or (best.id if best is not None else name)
        return Remembered(id=there, new=False, nearest=best)

    async def remember_all(
        self,
        texts: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        metadata: Sequence[Metadata] | None = None,
        ttl_s: float | None = None,
    ) -> Texts:
        """Remember texts in the place of what has their ids, whatever else there is, and return the ids.

        They are stored some hundreds at a time, which is far quicker than one by one.

        Raises:
            InvalidRequest: there are not as many ids or metadata as texts.
        """
        for field, given in (("ids", ids), ("metadata", metadata)):
            if given is not None and len(given) != len(texts):
                raise InvalidRequest.of(field, f"saw {len(given)} of them; expected {len(texts)}, one for each text")
        names = [_make_id() for _ in texts] if ids is None else [*map(_notes.check_id, ids)]
        pairs = zip(texts, metadata or [{}] * len(texts), strict=True)
        notes = list(dict(zip(names, (_notes.encode_note(*pair) for pair in pairs), strict=True)).items())
        for start in range(0, len(notes), STORED_TOGETHER):
            await self._store(await self._coder.encode_notes(notes[start : start + STORED_TOGETHER]), ttl_s)
        return names

    async def recall(  # noqa: PLR0913 - all but the query by keyword
        self,
        query: str,
        *,
        k: int = 5,
        filter: Filter | None = None,  # noqa: A002
        since: datetime | None = None,
        min_probability: float = 0.0,
        max_chars: int | None = None,
    ) -> Recalled:
        """Return what is remembered about something: at most `k` texts, the one that is meant most probably first.

        `filter` names conditions on metadata, as `attractor.Filter` says; `since` is the earliest time of a text or of
        its last correction. Texts after the first are left out where there are more than `max_chars` characters.
        """
        where = _notes.encode_conditions(_notes.PARTS, filter, since)
        (vector,) = await self._coder.encode([_notes.check_text("query", query)], "query")
        try:
            found = await self._find(vector, query, k=k, where=where)
        except (Unavailable, TimeoutExceeded):
            if not self._fail_open:
                raise
            return Recalled(hits=(), probability=0.0, total=0, unavailable=True)
        hits = [hit for hit in found.hits if hit.probability >= min_probability]
        return replace(found, hits=hits if max_chars is None else _notes.take_chars(hits, max_chars))

    async def seen(self, text: str) -> Seen:
        """Return how probably this text, or one that says about the same, is remembered, and the nearest."""
        (vector,) = await self._coder.encode([_notes.check_text("text", text)], "item")
        found = await self._find(vector, text, k=1)
        return Seen(probability=found.probability, nearest=found.hits[0] if found.hits else None)

    async def nearest(
        self,
        vector: ArrayLike,
        *,
        k: int = 5,
        filter: Filter | None = None,  # noqa: A002
    ) -> Sequence[Neighbour]:
        """Return the texts whose vectors are nearest to one of the encoder's, the nearest first; words do not count."""
        (cue,) = fit(np.asarray(vector, np.float32)[None], DIMS)
        where = _notes.encode_conditions(_notes.PARTS, filter)
        none: Sequence[Neighbour] = ()
        return await self._space.read(
            lambda memory: find_nearest(memory, cue, k=k, where=where, timeout_s=self._timeout_s), none
        )

    async def get(self, ids: str | Sequence[str]) -> Notes:
        """Return the texts with these ids, in the order of remembering; ids that nothing has are left out."""
        none: KeptItems = []
        items = await self._space.read(lambda memory: memory.items.get(ids, timeout_s=self._timeout_s), none)
        return list({note.id: note for note in map(_notes.decode_note, items) if note is not None}.values())

    async def list(
        self,
        *,
        filter: Filter | None = None,  # noqa: A002
        since: datetime | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Note]:
        """Yield all texts, or those that the conditions of `recall` hold for, in the order of remembering."""
        where = _notes.encode_conditions(_notes.NOTES, filter, since)
        if (memory := await self._space.find()) is None:
            return
        with suppress(MemoryNotFound):
            async for item in memory.items.list(
                where=where, newest_first=newest_first, page_size=PAGE_SIZE, timeout_s=self._timeout_s
            ):
                if (note := _notes.decode_note(item)) is not None:
                    yield note

    async def count(self, *, filter: Filter | None = None) -> int:  # noqa: A002
        """Return how many texts there are, or how many of them conditions on metadata hold for."""
        where = _notes.encode_conditions(_notes.NOTES, filter)
        return await self._space.read(lambda memory: memory.items.count(where=where, timeout_s=self._timeout_s), 0)

    async def update(
        self,
        id: str,  # noqa: A002
        *,
        text: str | None = None,
        metadata: Metadata | None = None,
    ) -> Note:
        """Give a text other words, other metadata, or both; return what was there before.

        Raises:
            NotFound: nothing has this id.
        """
        found = await self.get(_notes.check_id(id))
        if not found:
            raise NotFound(f"id: saw {id!r}, which nothing in {self.space!r} has; expected that of a text")
        old = found[0]
        words = old.text if text is None else text
        payload = _notes.encode_note(words, old.metadata if metadata is None else metadata)
        await self._store(await self._coder.encode_notes([(id, payload)]), _notes.seconds_until(old.expires))
        return old

    async def forget(
        self,
        ids: str | Sequence[str] | None = None,
        *,
        filter: Filter | None = None,  # noqa: A002
        text: str | None = None,
    ) -> Texts:
        """Forget texts by their ids, by conditions on metadata, or the one that `text` means if one is known.

        They are erased from the weights of the memory and from its store as if they had never been there. Returns the
        ids of those that were.

        Raises:
            InvalidRequest: not exactly one of the three is given.
        """
        if sum(given is not None for given in (ids, filter, text)) != 1:
            raise InvalidRequest.of("ids", "saw none or several of ids, filter and text; expected one of them")
        if text is not None:
            found = [hit.id for hit in (await self.recall(text, k=1, min_probability=KNOWN)).hits]
        elif ids is not None:
            found = [note.id for note in await self.get(ids)]
        else:
            found = [note.id async for note in self.list(filter=filter)]
        if found:
            await self._space.write(lambda memory: memory.items.erase(found, timeout_s=self._timeout_s))
        return found

    async def checkpoint(self, tag: str) -> SnapshotInfo:
        """Keep all that is remembered now under a tag, to go back to.

        Raises:
            Conflict: the tag is taken by another state.
        """
        return await self._space.write(lambda memory: memory.snapshot(tag, timeout_s=self._timeout_s))

    async def rollback(self, tag: str) -> None:
        """Go back to a checkpoint: what was remembered since is gone, what was forgotten since is back.

        Raises:
            SnapshotNotFound: there is no such checkpoint.
        """
        await self._space.write(lambda memory: memory.restore(tag, timeout_s=self._timeout_s))

    async def branch(self, name: str, *, tag: str | None = None) -> "AgentMemory":
        """Return a memory with all that this one has, or had at a checkpoint, in the space `name` below this one.

        It costs no more for many texts than for few, and the two go their own ways from there.

        Raises:
            Conflict: there is such a space already.
        """
        target = f"{self.space}/{name}"
        await self._space.write(lambda memory: memory.fork(target, tag=tag, timeout_s=self._timeout_s))
        return self.at(target)

    async def delete(self) -> None:
        """Forget everything, checkpoints too. Branches stay."""
        with suppress(MemoryNotFound):
            await self._client.delete_memory(self.space, timeout_s=self._timeout_s)

    async def _find(self, vector: Floats, words: str, *, k: int, where: Filter = _notes.PARTS) -> Recalled:
        if not 0 < k <= HITS_LIMIT:
            raise InvalidRequest.of("k", f"saw {k!r}; expected 1 to {HITS_LIMIT}")
        if (known_from := self._coder.encoder.known_from) is None:
            find = partial(search, cue=vector, words=words, k=k, where=where, timeout_s=self._timeout_s)
        else:
            by_cosine = partial(search_by_cosine, known_from=known_from)
            find = partial(by_cosine, cue=vector, words=words, k=k, where=where, timeout_s=self._timeout_s)
        return await self._space.read(find, NOTHING)

    async def _find_best(self, vector: Floats, words: str) -> Hit | None:
        hits = (await self._find(vector, words, k=1)).hits
        return hits[0] if hits else None

    async def _store(
        self, rows: Rows, ttl_s: float | None, unless_similar: float | None = None
    ) -> attractor.StoreResult:
        return await self._space.write(
            lambda memory: memory.store(
                rows.vectors,
                ids=rows.ids,
                payloads=rows.payloads,
                texts=rows.texts,
                on_conflict="replace" if unless_similar is None else "append",
                unless_similar=unless_similar,
                ttl_s=ttl_s,
                timeout_s=self._timeout_s,
            )
        )


def _make_id() -> str:
    return uuid.uuid4().hex[:16]
