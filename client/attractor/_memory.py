"""The asynchronous memory."""

from collections.abc import Sequence
from typing import Literal

from attractor._arguments import check_text
from attractor._arrays import pack, pack_cues
from attractor._connection import Connection
from attractor._filters import Filter
from attractor._items import AsyncItems
from attractor._memory_settings import encode_metric, encode_page_patterns
from attractor._payloads import encode_items
from attractor._pipeline import AsyncMemoryStream
from attractor._search import Found, SearchBy, decode_found, encode_search
from attractor._session.operations import ERASE, STORE, specify_query, specify_recognize, specify_store
from attractor._snapshots import FilePath
from attractor._types import (
    EraseResult,
    Familiarity,
    Ids,
    MemoryInfo,
    Metric,
    ModelInfo,
    OnConflict,
    Patterns,
    Payload,
    Recall,
    SnapshotInfo,
    StoreResult,
)
from attractor_proto.v1 import memory_copies_pb2 as pb


class AsyncMemory:
    """A memory on the server. Made by a client; valid while that is open.

    Patterns are an array for a model of one field, else a mapping of field name to array; (*shape) for a single
    pattern, (patterns, *shape) for a batch, and results have the same form. Taken as float32, float16, bfloat16 or
    uint8; float64 is sent as float32. Images are uint8 from 0 to 255 or floats from 0 to 1, and come back as floats.

    A text is a `str`, and a batch of them a list; shorter ones are filled up with spaces. They come back by
    `Recall.text`.

    Stored patterns are whole. In cues, and in patterns to be recognized, NaN or the mask of a numpy masked array marks
    a missing entry, the character `attractor.MISSING` a missing one of a text, and a field may be left out altogether:
    `query({"key": k})` completes the rest. At least one entry of each pattern is given; results hold all.

    Every call raises `AttractorError`s, among them InvalidRequest, MemoryNotFound, TimeoutExceeded after `timeout_s`
    seconds (None: the client's; inf: never), and Closed.
    """

    def __init__(self, connection: Connection, name: str, model: ModelInfo | None = None) -> None:
        """`model` None: asked from the server when first needed."""
        self._connection = connection
        self._name = name
        self._cached = connection.get_cached_model(name)
        if model is not None:
            self._cached.model = model

    def __repr__(self) -> str:
        return f"<attractor.AsyncMemory {self._name!r}>"

    @property
    def name(self) -> str:
        """Name of the memory."""
        return self._name

    @property
    def items(self) -> AsyncItems:
        """Items that the memory keeps, by id and in lists."""
        return AsyncItems(self._connection, self._name, self._get_model)

    async def info(self, *, timeout_s: float | None = None) -> MemoryInfo:
        """Return the memory's description as it is now on the server."""
        return await self._connection.get_info(self._name, self._connection.start_deadline(timeout_s))

    async def model(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Return the memory's model."""
        return await self._get_model(self._connection.start_deadline(timeout_s))

    async def store(  # noqa: PLR0913 - all but the patterns by keyword
        self,
        patterns: Patterns,
        *,
        ids: Ids | None = None,
        payloads: Payload | Sequence[Payload] | None = None,
        texts: str | Sequence[str] | None = None,
        on_conflict: OnConflict = "append",
        unless_similar: float | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> StoreResult:
        """Store all the patterns at once, or none of them; any later query sees them.

        Each may have an id (at most 256 characters) and a payload (bytes, or a JSON value, at most 64 KiB), which
        `items` and `query(…, match=True)` return: one of them for a single pattern, lists for a batch. `search` finds
        it by the words of its text (at most 64 KiB).

        `on_conflict` says what becomes of patterns whose id the memory has: they are stored beside what is there
        ("append"), take its place exactly as if it had never been stored ("replace"), make the whole store fail
        ("refuse"), or are left out ("keep"). Patterns of one store may share an id. After `ttl_s` seconds they are
        erased. `unless_similar` leaves out each pattern whose cosine with a kept one, or with one before it, is that or
        more; nobody writes between the look and the store, and `StoreResult.existing` names what was there.

        Raises:
            InvalidRequest: also for more patterns than one frame holds.
            NotKept: ids, payloads, texts or one of these options are given, and the server keeps no patterns.
            Conflict: the memory has one of the ids, and `on_conflict` is "refuse".
            NotRetained: not all patterns are kept of a page in which some are to be replaced.
            MemoryFull: the memory refuses what is more than its page takes; nothing was applied.
            Diverged: the writing loop left finite numbers; nothing was applied.
        """
        plain = on_conflict == "append" and unless_similar is None
        spec = STORE if plain else specify_store(on_conflict, unless_similar)
        deadline_s = self._connection.start_deadline(timeout_s)
        packed = pack(await self._get_model(deadline_s), patterns)
        packed.items = encode_items(ids, payloads, rows=packed.rows, single=packed.single, ttl_s=ttl_s, texts=texts)
        return await self._connection.start(self._name, spec, packed, deadline_s).wait()

    async def erase(self, patterns: Patterns, *, timeout_s: float | None = None) -> EraseResult:
        """Make all these patterns, whole and as they were stored, strangers again; applied once, as a store is.

        Kept patterns leave their pages as if they had never been stored. How well others are erased, and at what cost
        to the patterns that stay, the model's training record says.

        Raises:
            CannotErase: they are not kept, and the memory's model has not learned to erase.
            Diverged: the erasing loop left finite numbers; nothing was applied.
        """
        deadline_s = self._connection.start_deadline(timeout_s)
        packed = pack(await self._get_model(deadline_s), patterns)
        return await self._connection.start(self._name, ERASE, packed, deadline_s).wait()

    async def query(  # noqa: PLR0913 - all but the cues by keyword
        self,
        cues: Patterns,
        *,
        known: Patterns | Literal[False] | None = None,
        hold: bool = True,
        steps: int = 0,
        trajectory: bool = False,
        match: bool | int = False,
        kept: bool | None = None,
        timeout_s: float | None = None,
    ) -> Recall:
        """Complete the cues.

        The network reads from each cue in the page of the memory that knows it best. Then the patterns that the memory
        keeps take part: the answer is the mean of these and of the reading, by how probably each is meant, and
        `Recall.probability` says how probably any is. With `kept` False, or where the server keeps no patterns, or the
        model has no posterior, the network answers alone; True has them take part in a memory that is set otherwise.

        A cue with missing entries holds all that it gives: these come back as they are, and help to find the others.
        `known` (bool, of the cues' shape or of one pattern's) says instead which entries are held, none of which may be
        missing; False holds nothing, so that a cue is only a starting point, as one without missing entries is anyway.
        `hold` False pulls them towards the cue instead, as hard as the model has learned to, and they come back as the
        memory has them: for cues that are known with noise. `steps` 0 takes the model's own number; `trajectory` also
        asks for every iterate. `match` also asks for the kept pattern that is meant most probably, with its id and
        payload, or for so many; where the network answers alone, for those nearest to its answer.

        Raises:
            Diverged: the reading loop left finite numbers.
            NotKept: there are to be matches, and the server keeps no patterns.
            CannotPull: `hold` is False, and the memory's model has not learned to pull.
        """
        spec = specify_query(steps, trajectory=trajectory, hold=hold, matches=int(match), kept=kept)
        deadline_s = self._connection.start_deadline(timeout_s)
        packed = pack_cues(await self._get_model(deadline_s), cues, known)
        return await self._connection.start(self._name, spec, packed, deadline_s).wait()

    async def recognize(
        self, patterns: Patterns, *, kept: bool | None = None, timeout_s: float | None = None
    ) -> Familiarity:
        """Return how familiar the patterns are, and how probably each is of one that is kept, without completing them.

        Missing entries count as if they were the mean of the training data. With `kept` False the network alone tells,
        which takes less time.
        """
        deadline_s = self._connection.start_deadline(timeout_s)
        packed = pack_cues(await self._get_model(deadline_s), patterns, known=False, where="patterns")
        return await self._connection.start(self._name, specify_recognize(kept), packed, deadline_s).wait()

    async def search(  # noqa: PLR0913 - all but the cue by keyword
        self,
        cue: Patterns | None = None,
        *,
        k: int = 10,
        words: str | None = None,
        filter: Filter | None = None,  # noqa: A002 - as other stores call it
        values: bool = False,
        by: SearchBy = "posterior",
        timeout_s: float | None = None,
    ) -> Found:
        """Return the kept items that a single cue means, or whose texts have some of the words: the `k` best.

        `by` "posterior" ranks them by the probability with which kept patterns take part in `query`; "cue" by the
        cosine with the cue in the metric of their pages. `words` add how well the items' texts fit them (BM25), both in
        standard deviations; items without a pattern are found by words alone. `filter` names conditions on payloads, as
        `attractor.Filter` says: other items take no part, in ranks nor probabilities. Several patterns may share an id,
        as parts of one text: it is found once, by the best of them, and their probabilities are added.

        `Found.known` is the probability that anything here is meant, where cues of what is stored and of what is not
        are equally frequent: below ½, "nothing" is the answer. With `values` hits have their patterns.

        Raises:
            NotKept: the server keeps no patterns.
        """
        deadline_s = self._connection.start_deadline(timeout_s)
        packed = None if cue is None else pack_cues(await self._get_model(deadline_s), cue, where="cue")
        request = encode_search(packed, name=self._name, k=k, words=words, where=filter, values=values, by=by)
        answer = await self._connection.unary.call(lambda to: to.search.Search, request, deadline_s)
        return decode_found(answer, values=values)

    async def fork(self, name: str, *, tag: str | None = None, timeout_s: float | None = None) -> "AsyncMemory":
        """Make a new memory with all that this one has, or had at the snapshot with that tag.

        Costs no more for a large memory than for a small one: pages are shared until one of the two is written.

        Raises:
            Conflict: there is another memory of that name.
            SnapshotNotFound: there is no such snapshot.
            NotKept: the server keeps no memories.
        """
        deadline_s = self._connection.start_deadline(timeout_s)
        target, tag = check_text("name", name), check_text("tag", tag or "")
        info = await self._connection.snapshots.fork(self._name, target, tag, deadline_s)
        return AsyncMemory(self._connection, info.name, await self._connection.get_model(info, deadline_s))

    async def snapshot(self, tag: str, *, timeout_s: float | None = None) -> SnapshotInfo:
        """Keep the memory as it is now under a tag, until that is forgotten, or the memory deleted.

        Raises:
            Conflict: the tag is taken by another version.
            NotKept: the server keeps no memories.
        """
        tag = check_text("tag", tag)
        return await self._connection.snapshots.take(self._name, tag, self._connection.start_deadline(timeout_s))

    async def snapshots(self, *, timeout_s: float | None = None) -> list[SnapshotInfo]:
        """Return the memory's snapshots, the oldest first."""
        return await self._connection.snapshots.list_all(self._name, self._connection.start_deadline(timeout_s))

    async def forget_snapshot(self, tag: str, *, timeout_s: float | None = None) -> None:
        """Forget a snapshot.

        Raises:
            SnapshotNotFound: there is no such snapshot.
        """
        tag = check_text("tag", tag)
        await self._connection.snapshots.forget(self._name, tag, self._connection.start_deadline(timeout_s))

    async def restore(self, tag: str, *, timeout_s: float | None = None) -> MemoryInfo:
        """Restore the memory as it was at a snapshot; its version grows by one all the same.

        Raises:
            SnapshotNotFound: there is no such snapshot.
        """
        check_text("tag", tag)
        self._cached.model = None
        return await self._connection.snapshots.restore(self._name, tag, self._connection.start_deadline(timeout_s))

    async def rebuild(
        self,
        *,
        model: str | None = None,
        page_patterns: int | None = None,
        metric: Metric | None = None,
        timeout_s: float | None = None,
    ) -> MemoryInfo:
        """Write the memory anew from its patterns, into full pages: of another model with the same fields, say a newer
        one, or of its own, so that pages from which much was erased become fewer. `metric` changes that setting, say of
        a memory of a former server: `rebuild(metric="own")`.

        Raises:
            NotRetained: not all its patterns are kept.
            NotKept: the server keeps no memories.
        """
        asked = pb.RebuildRequest(
            name=self._name,
            model=check_text("model", model or ""),
            page_patterns=encode_page_patterns(page_patterns),
            metric=encode_metric(metric),
        )
        self._cached.model = None
        return await self._connection.snapshots.rebuild(asked, self._connection.start_deadline(timeout_s))

    async def consolidate(self, *, timeout_s: float | None = None) -> MemoryInfo:
        """Write the memory anew, as `rebuild` does with nothing changed."""
        return await self.rebuild(timeout_s=timeout_s)

    async def export(self, path: FilePath, *, timeout_s: float | None = None) -> None:
        """Write the memory as it is now to a file that `import_memory` takes on any server.

        Raises:
            NotKept: the server keeps no memories.
            OSError: the file cannot be written; then there is none.
        """
        await self._connection.snapshots.export(self._name, path, self._connection.start_deadline(timeout_s))

    def stream(self, *, in_flight_patterns: int = 1024, timeout_s: float | None = None) -> AsyncMemoryStream:
        """Return a context manager for storing and querying many patterns without waiting for each result.

        At most `in_flight_patterns` are under way in each of its pipelines; `timeout_s` counts for each item.
        """
        return AsyncMemoryStream(
            self._connection, self._name, self._get_model, in_flight_patterns=in_flight_patterns, timeout_s=timeout_s
        )

    async def _get_model(self, deadline_s: float) -> ModelInfo:
        if (model := self._cached.model) is None:
            info = await self._connection.get_info(self._name, deadline_s)
            model = self._cached.model = await self._connection.get_model(info, deadline_s)
        return model
