"""One memory, as its users see it."""

from collections.abc import Sequence

from attractor._arguments import text
from attractor._arrays import Packed, pack, pack_cues
from attractor._connection import Core
from attractor._memory_settings import page_patterns_of
from attractor._payloads import items
from attractor._pipeline import MemoryStream
from attractor._session.calls import Ticket, erased, recalled, recognized, stored
from attractor._session.request import Ask, Operation, reading
from attractor._snapshots import FilePath
from attractor._types import (
    Cue,
    EraseResult,
    Familiarity,
    Ids,
    MemoryInfo,
    ModelInfo,
    Patterns,
    Payload,
    Recall,
    SnapshotInfo,
    StoreResult,
)

_STORE, _ERASE, _RECOGNIZE = (Ask(operation=one) for one in (Operation.STORE, Operation.ERASE, Operation.RECOGNIZE))


class Memory:
    """A memory on the server. Made by a client; valid while that is open.

    Patterns are an array for a model of one field, else a mapping of field name to array; (*shape) for a single
    pattern, (patterns, *shape) for a batch, and answers have the same form. Taken as float32, float16, bfloat16 or
    uint8; float64 is sent as float32. Images are uint8 from 0 to 255 or floats from 0 to 1, and come back as floats.

    A text is a `str`, and a batch of them a list; what is shorter than the field is filled up with spaces. They come
    back by `Recall.text`.

    What is stored is whole. In what is queried or recognized, NaN or the mask of a numpy masked array marks a missing
    entry, the character `attractor.MISSING` a missing one of a text, and a field may be left out altogether:
    `query({"key": k})` completes the rest. At least one entry of each pattern is given; answers hold all.

    Every call raises `AttractorError`s, among them InvalidRequest, MemoryNotFound, TimeoutExceeded after `timeout_s`
    seconds (None: the client's; inf: never), and Closed.
    """

    def __init__(self, core: Core, name: str, model: ModelInfo | None = None) -> None:
        """`model` None: asked from the server when first needed."""
        self._core = core
        self._name = name
        self._known = core.known(name)
        if model is not None:
            self._known.model = model

    def __repr__(self) -> str:
        return f"<attractor.Memory {self._name!r}>"

    @property
    def name(self) -> str:
        """What the memory is called."""
        return self._name

    async def info(self, *, timeout_s: float | None = None) -> MemoryInfo:
        """The memory as the server has it now."""
        return await self._core.info(self._name, self._core.deadline_s(timeout_s))

    async def model(self, *, timeout_s: float | None = None) -> ModelInfo:
        """The model the memory was made from."""
        return await self._known_model(self._core.deadline_s(timeout_s))

    async def store(
        self,
        patterns: Patterns,
        *,
        ids: Ids | None = None,
        payloads: Payload | Sequence[Payload] | None = None,
        timeout_s: float | None = None,
    ) -> StoreResult:
        """Writes all the patterns at once, or none of them; any later query sees them.

        Each may have an id (at most 256 characters, which others may have, too) and a payload (bytes, or what JSON can
        say, at most 64 KiB), which `query(…, match=True)` returns: one of them for a single pattern, lists for a batch.

        Raises:
            InvalidRequest: also for more patterns than one frame holds.
            NotKept: ids or payloads are given, and the server keeps no patterns.
            MemoryFull: the memory refuses what is more than its page takes; nothing was applied.
            Diverged: the writing loop left finite numbers; nothing was applied.
        """
        deadline_s = self._core.deadline_s(timeout_s)
        model = await self._known_model(deadline_s)
        packed = pack(model, patterns)
        packed.items = items(ids, payloads, rows=packed.rows, single=packed.single)
        return await stored(self._start(model, _STORE, packed, deadline_s))

    async def erase(self, patterns: Patterns, *, timeout_s: float | None = None) -> EraseResult:
        """Makes all these patterns, whole and as they were stored, strangers again; applied once, as a store is.

        Those that the server keeps leave their pages as if they had never been stored. How well others are erased, and
        at what cost to the patterns that stay, the model's training record says.

        Raises:
            CannotErase: they are not kept, and the memory's model has not learned to erase.
            Diverged: the erasing loop left finite numbers; nothing was applied.
        """
        deadline_s = self._core.deadline_s(timeout_s)
        model = await self._known_model(deadline_s)
        return await erased(self._start(model, _ERASE, pack(model, patterns), deadline_s))

    async def query(  # noqa: PLR0913 - all but the cues by keyword
        self,
        cues: Patterns,
        *,
        known: Patterns | None = None,
        hold: bool = True,
        steps: int = 0,
        trajectory: bool = False,
        match: bool = False,
        timeout_s: float | None = None,
    ) -> Recall:
        """Completes the cues, each from the page of the memory that knows it best.

        `known` (bool, of the cues' shape or of one pattern's) holds those entries fixed, none of which may be missing.
        `hold` False pulls them towards the cue instead, as hard as the model has learned to, and they come back as the
        memory has them: for cues that are known with noise. `steps` 0 takes the model's own number; `trajectory` also
        asks for every iterate. `match` also asks for the pattern nearest to each completed one among those that the
        server keeps, with its id and payload.

        Raises:
            Diverged: the reading loop left finite numbers.
            NotKept: `match` is True, and the server keeps no patterns.
            CannotPull: `hold` is False, and the memory's model has not learned to pull.
        """
        ask = reading(steps, trajectory=trajectory, hold=hold, match=match)
        deadline_s = self._core.deadline_s(timeout_s)
        model = await self._known_model(deadline_s)
        return await recalled(self._start(model, ask, pack_cues(model, cues, known), deadline_s))

    async def recognize(self, patterns: Patterns, *, timeout_s: float | None = None) -> Familiarity:
        """How familiar the patterns are, as they stand, without completing them.

        Missing entries count as if they were the mean of the training data.
        """
        deadline_s = self._core.deadline_s(timeout_s)
        model = await self._known_model(deadline_s)
        return await recognized(
            self._start(model, _RECOGNIZE, pack_cues(model, patterns, where="patterns"), deadline_s)
        )

    async def fork(self, name: str, *, tag: str | None = None, timeout_s: float | None = None) -> "Memory":
        """A new memory of that name with all that this one has, or had at the snapshot with that tag.

        Costs no more for a large memory than for a small one: pages are shared until one of the two is written.

        Raises:
            Conflict: there is another memory of that name.
            SnapshotNotFound: there is no such snapshot.
            NotKept: the server keeps no memories.
        """
        deadline_s = self._core.deadline_s(timeout_s)
        info = await self._core.copies.fork(self._name, text("name", name), text("tag", tag or ""), deadline_s)
        return Memory(self._core, info.name, await self._core.model_of(info, deadline_s))

    async def snapshot(self, tag: str, *, timeout_s: float | None = None) -> SnapshotInfo:
        """Keeps the memory as it is now under a tag, until that is forgotten, or the memory deleted.

        Raises:
            Conflict: the tag is taken by another version.
            NotKept: the server keeps no memories.
        """
        return await self._core.copies.snapshot(self._name, text("tag", tag), self._core.deadline_s(timeout_s))

    async def snapshots(self, *, timeout_s: float | None = None) -> list[SnapshotInfo]:
        """The memory's snapshots, the oldest first."""
        return await self._core.copies.snapshots(self._name, self._core.deadline_s(timeout_s))

    async def forget_snapshot(self, tag: str, *, timeout_s: float | None = None) -> None:
        """Forgets a snapshot.

        Raises:
            SnapshotNotFound: there is no such snapshot.
        """
        await self._core.copies.forget_snapshot(self._name, text("tag", tag), self._core.deadline_s(timeout_s))

    async def restore(self, tag: str, *, timeout_s: float | None = None) -> MemoryInfo:
        """Makes the memory what it was at a snapshot; its version grows by one all the same.

        Raises:
            SnapshotNotFound: there is no such snapshot.
        """
        text("tag", tag)
        self._known.model = None
        return await self._core.copies.restore(self._name, tag, self._core.deadline_s(timeout_s))

    async def rebuild(
        self, *, model: str | None = None, page_patterns: int | None = None, timeout_s: float | None = None
    ) -> MemoryInfo:
        """Writes the memory anew from its patterns, into full pages: of another model with the same fields, say a newer
        one, or of its own, so that pages from which much was erased become fewer.

        Raises:
            NotRetained: not all its patterns are kept.
            NotKept: the server keeps no memories.
        """
        named, patterns = text("model", model or ""), page_patterns_of(page_patterns)
        self._known.model = None
        deadline_s = self._core.deadline_s(timeout_s)
        return await self._core.copies.rebuild(self._name, named, patterns, deadline_s)

    async def consolidate(self, *, timeout_s: float | None = None) -> MemoryInfo:
        """Writes the memory anew, as `rebuild` does with nothing changed."""
        return await self.rebuild(timeout_s=timeout_s)

    async def export(self, path: FilePath, *, timeout_s: float | None = None) -> None:
        """Writes the memory as it is now to a file that `import_memory` takes on any server.

        Raises:
            NotKept: the server keeps no memories.
            OSError: the file cannot be written; then there is none.
        """
        await self._core.copies.export(self._name, path, self._core.deadline_s(timeout_s))

    def stream(self, *, in_flight_patterns: int = 1024, timeout_s: float | None = None) -> MemoryStream:
        """A context manager for storing and querying many patterns without waiting for each answer.

        At most `in_flight_patterns` are under way in each of its pipelines; `timeout_s` counts for each item.
        """
        return MemoryStream(self, in_flight_patterns=in_flight_patterns, timeout_s=timeout_s)

    def start_store(self, model: ModelInfo, patterns: Patterns, timeout_s: float | None) -> Ticket:
        """Sends a store without waiting for the answer. For the SDK itself."""
        return self._start(model, _STORE, pack(model, patterns), self._core.deadline_s(timeout_s))

    def start_query(self, model: ModelInfo, cue: Cue, ask: Ask, timeout_s: float | None) -> Ticket:
        """Sends a query without waiting for the answer. For the SDK itself."""
        packed = pack_cues(model, cue.cues, cue.known)
        return self._start(model, ask, packed, self._core.deadline_s(timeout_s))

    async def _known_model(self, deadline_s: float) -> ModelInfo:
        if (model := self._known.model) is None:
            info = await self._core.info(self._name, deadline_s)
            model = self._known.model = await self._core.model_of(info, deadline_s)
        return model

    def _start(self, model: ModelInfo, ask: Ask, packed: Packed, deadline_s: float) -> Ticket:
        return self._core.start(self._name, model, ask, packed, deadline_s)
