"""Jobs: requests to memories, on their way from the queue to the engine."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Self, TypeAlias

from attractor_server.errors import Cancelled, ServerError
from attractor_server.fields import Layout
from attractor_server.memories.items import ByFilter, ByIds, ItemChoice, OnConflict
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Booleans, Floats, Outcome, OutcomeFuture
from attractor_server.memories.records import Call, Item
from attractor_server.memories.search import SearchQuery
from attractor_server.recorder import RequestTrace
from attractor_server.scheduling.tasks import PART_PATTERNS, ForgetSnapshot, Rebuild, Restore, Task

Origin: TypeAlias = tuple[str, int]
"""The address of a client, and the number of its session; 0 for unary calls"""
LOOKS = 16
"""Pages that can be asked for a pattern's energy in the time in which the pattern is read from one, about"""
SEARCH = 2
"""Patterns that are read in the time in which a page's kept patterns are fetched and looked through, about"""
COMPARED = 1024
"""Kept patterns that are compared with a pattern in the time in which it is read, about"""

SCORED = 128
"""Kept patterns that take part in a pattern's answer in that time, about"""
FILTERED = 8
"""Payloads that a filter looks at in that time, about"""
WORDS = 32
"""Patterns that are read in the time in which words are looked for in the texts of a small memory, about"""
SCANNED = 1 << 20
"""Cost of looking at all payloads of a memory, which is done in parts however few they are thought to be"""
REWRITTEN = 8
"""Patterns of a page that are written anew in the time in which a pattern is read, about"""


class Operation(Enum):
    """Kind of request that a job makes of its memory."""

    STORE = "store"
    ERASE = "erase"
    QUERY = "query"
    RECOGNIZE = "recognize"
    SEARCH = "search"
    DELETE = "delete"
    TASK = "task"
    EVICT = "evict"

    def __init__(self, name: str) -> None:
        self.writes = name not in ("query", "recognize", "search")
        """Whether jobs behind it have to wait for its effect"""


@dataclass(eq=False, kw_only=True, slots=True)
class Job:
    """One request to one memory; its future gets the outcome, or the error it failed with.

    Made by `store`, `query` and the others, on the event loop that waits for the outcome. Nobody cancels the future:
    whoever no longer wants the outcome withdraws the job.
    """

    operation: Operation
    memory: MemoryRecord
    future: OutcomeFuture
    values: Floats | None = None
    """(n, d) in user units; None for a deletion or a task, and where the memory leaves"""
    known: Booleans | None = None
    layout: Layout | None = None
    """Layout of the values, by the model that the memory was of when they were checked; None: unchecked"""
    steps: int = 0
    """Reading steps of a query"""
    own_steps: bool = False
    """As many as the model takes that the memory is of at the query's turn; `steps` is then an estimate"""
    trajectory: bool = False
    pull: bool = False
    """Whether known entries of a query are pulled towards the cue, not held"""
    matches: int = 0
    """Kept patterns that a query also asks for, for each of its cues"""
    kept: bool | None = None
    """Whether kept patterns take part in the answer; None: as the memory is set"""
    search: SearchQuery | None = None
    """What a search asks for"""
    items: Sequence[Item] = ()
    """Items of a store's patterns, one for each; empty where none carries anything. Of an edit those that it puts"""
    on_conflict: OnConflict = "append"
    """Treatment of a store's patterns whose id the memory has already"""
    unless_similar: float = 0.0
    """Cosine with a kept pattern from which on a store leaves a pattern out; 0: it stores all"""
    chosen: ItemChoice | None = None
    """Items that an erase without patterns takes away"""
    deadline_s: float | None = None
    """On the event loop's clock"""
    client_id: str = ""
    sequence: int = 0
    """Number of a store or an erase that its client repeats, with that number, until it is answered; 0 for none"""
    digest: int = 0
    """Digest of what a numbered store or erase writes, by which its repeats are told from others; 0: not noted"""
    looks_back: bool = False
    """Whether only the store knows if a store or an erase with that number was applied"""
    call: Call | None = None
    """Number of a task or a deletion that has one"""
    if_expired: bool = False
    """Whether a deletion is carried out only where the memory's time is over"""
    task: Task | None = None
    """Task to carry out, of a job that is one"""
    origin: Origin | None = None
    """Client that it came from; None where it is the server's own"""
    started: bool = False
    """Whether the engine has it: it can be withdrawn no longer, unless it reads and is done in parts"""
    cut: bool = False
    """Whether it takes longer than others should wait, and is done in parts"""
    parts: int = 0
    """Parts that were begun"""
    aside: bool = False
    """Whether another thread is at it, so that the engine's has nothing to do for it now"""
    size: int = field(init=False)
    """Patterns in it; one where it has none, and of what is done in parts those of a part, about"""
    weight: int = field(init=False)
    """Patterns in it and in its answer: with a trajectory, one for each iterate.

    Fixed when the job is made, so that sums get back what they were given: of a query that takes its model's own steps
    it is an estimate by the model that the memory was of then.
    """
    trace: RequestTrace | None = None
    """None where its client does not trace it"""
    queued_s: float = 0.0
    """When it came to wait, on `perf_counter`"""
    _program: tuple[object, ...] = field(default=(), init=False)
    _program_of: str = field(default="", init=False)

    def __post_init__(self) -> None:
        without = PART_PATTERNS if isinstance(self.task, Rebuild) else 1
        self.size = size = without if self.values is None else len(self.values)
        self.weight = size * (1 + self.steps) if self.trajectory else size

    @classmethod
    def store(  # noqa: PLR0913 - each a part of the request
        cls,
        memory: MemoryRecord,
        values: Floats,
        items: Sequence[Item] = (),
        *,
        on_conflict: OnConflict = "append",
        unless_similar: float = 0.0,
        layout: Layout | None = None,
        deadline_s: float | None = None,
        origin: Origin | None = None,
    ) -> Self:
        """Return a job that writes patterns (n, d), each with its item if there are any."""
        return cls(
            operation=Operation.STORE,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            values=values,
            items=items,
            on_conflict=on_conflict,
            unless_similar=unless_similar,
            layout=layout,
            deadline_s=deadline_s,
            origin=origin,
        )

    @classmethod
    def erase(
        cls,
        memory: MemoryRecord,
        values: Floats,
        *,
        layout: Layout | None = None,
        deadline_s: float | None = None,
        origin: Origin | None = None,
    ) -> Self:
        """Return a job that erases patterns (n, d)."""
        return cls(
            operation=Operation.ERASE,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            values=values,
            layout=layout,
            deadline_s=deadline_s,
            origin=origin,
        )

    @classmethod
    def edit_items(  # noqa: PLR0913 - each a part of the request
        cls,
        memory: MemoryRecord,
        chosen: ItemChoice | None,
        put: Sequence[Item] = (),
        *,
        on_conflict: OnConflict = "append",
        call: Call | None = None,
        origin: Origin | None = None,
    ) -> Self:
        """Return a job that erases the chosen items, and puts others that have no pattern."""
        return cls(
            operation=Operation.ERASE,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            chosen=chosen,
            items=put,
            on_conflict=on_conflict,
            call=call,
            origin=origin,
        )

    @classmethod
    def query(  # noqa: PLR0913 - a query has many options
        cls,
        memory: MemoryRecord,
        values: Floats,
        known: Booleans | None = None,
        *,
        steps: int,
        own_steps: bool = False,
        trajectory: bool = False,
        pull: bool = False,
        matches: int = 0,
        kept: bool | None = None,
        layout: Layout | None = None,
        deadline_s: float | None = None,
        origin: Origin | None = None,
    ) -> Self:
        """Return a job that completes cues (n, d), NaN or not `known` where they are to be filled in.

        A mask that marks nothing, as that of a request that shares a frame with masked ones, counts as none.
        """
        return cls(
            operation=Operation.QUERY,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            values=values,
            known=known if known is not None and known.any() else None,
            steps=steps,
            own_steps=own_steps,
            trajectory=trajectory,
            pull=pull,
            matches=matches,
            kept=kept,
            layout=layout,
            deadline_s=deadline_s,
            origin=origin,
        )

    @classmethod
    def recognize(  # noqa: PLR0913
        cls,
        memory: MemoryRecord,
        values: Floats,
        *,
        kept: bool | None = None,
        layout: Layout | None = None,
        deadline_s: float | None = None,
        origin: Origin | None = None,
    ) -> Self:
        """Return a job that asks how familiar patterns (n, d) are."""
        return cls(
            operation=Operation.RECOGNIZE,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            values=values,
            kept=kept,
            layout=layout,
            deadline_s=deadline_s,
            origin=origin,
        )

    @classmethod
    def find(  # noqa: PLR0913
        cls,
        memory: MemoryRecord,
        values: Floats,
        known: Booleans | None,
        search: SearchQuery,
        *,
        steps: int,
        layout: Layout | None = None,
        deadline_s: float | None = None,
        origin: Origin | None = None,
    ) -> Self:
        """Return a job that searches for what a cue (1, d) means, which is read with the model's own steps."""
        return cls(
            operation=Operation.SEARCH,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            values=values,
            known=known if known is not None and known.any() else None,
            search=search,
            steps=steps,
            own_steps=True,
            layout=layout,
            deadline_s=deadline_s,
            origin=origin,
        )

    @classmethod
    def delete(
        cls,
        memory: MemoryRecord,
        *,
        call: Call | None = None,
        if_expired: bool = False,
        origin: Origin | None = None,
    ) -> Self:
        """Return a job that deletes the memory, with `if_expired` only where its time is over at the job's turn."""
        return cls(
            operation=Operation.DELETE,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            call=call,
            if_expired=if_expired,
            origin=origin,
        )

    @classmethod
    def perform(
        cls, memory: MemoryRecord, task: Task, *, call: Call | None = None, origin: Origin | None = None
    ) -> Self:
        """Return a job that carries out a task."""
        return cls(
            operation=Operation.TASK,
            memory=memory,
            future=asyncio.get_running_loop().create_future(),
            task=task,
            call=call,
            origin=origin,
        )

    @classmethod
    def evict(cls, memory: MemoryRecord) -> Self:
        """Return a job that takes the memory's pages out of the bank, since another shard has it."""
        return cls(operation=Operation.EVICT, memory=memory, future=asyncio.get_running_loop().create_future())

    @property
    def numbered(self) -> bool:
        """Whether its client will repeat it until it is answered."""
        return self.sequence > 0

    @property
    def in_parts(self) -> bool:
        """Whether it goes on in later batches: until it is answered it stays the first of its memory."""
        return (
            self.cut or self.operation is Operation.DELETE or isinstance(self.task, Rebuild | Restore | ForgetSnapshot)
        )

    @property
    def cost(self) -> int:
        """Time at its turn, in patterns that are read from one page, about: all pages are asked first."""
        pages = len(self.memory.pages)
        if isinstance(self.chosen, ByFilter):
            return SCANNED
        if isinstance(self.chosen, ByIds):
            return len(self.chosen.ids) * max(1, self.memory.settings.page_patterns // REWRITTEN)
        if self.unless_similar:
            return self.weight + pages * SEARCH + self.size * self.memory.patterns // COMPARED
        if self.on_conflict == "replace":
            return self.weight * max(1, self.memory.settings.page_patterns // REWRITTEN)
        if self.search is not None:
            filtered = self.memory.patterns // FILTERED if self.search.filter.conditions else 0
            scored = 2 * self.memory.patterns // SCORED  # by the posterior, and by the cue
            graded = WORDS + self.memory.patterns // FILTERED if self.search.words else 0
            return self.weight + pages * SEARCH + scored + filtered + graded + pages // LOOKS
        if self.operation not in (Operation.QUERY, Operation.RECOGNIZE, Operation.ERASE):
            return self.weight
        searches = self.matches or self.operation is Operation.ERASE
        searched = pages * SEARCH + self.size * self.memory.patterns // COMPARED if searches else 0
        if self.operation is not Operation.ERASE and self.kept is not False:
            searched += self.size * self.memory.patterns // SCORED
        return self.weight + searched + (self.size * pages // LOOKS if pages > 1 else 0)

    @property
    def program(self) -> tuple[object, ...]:
        """Key of jobs that can be computed in one batch. It changes with the memory's model while the job waits."""
        digest = self.memory.model_digest
        if not self._program or self._program_of is not digest:
            kind = self.operation.value  # whose hash is at hand, where that of a member is computed in Python
            steps = 0 if self.own_steps else self.steps
            self._program, self._program_of = (
                (kind, digest, steps, self.trajectory, self.pull, self.on_conflict),
                digest,
            )
        return self._program

    def number(self, client_id: str, sequence: int, digest: int, *, looks_back: bool) -> None:
        """Give a store or an erase the number with which its client repeats it until it is answered."""
        self.client_id, self.sequence, self.digest, self.looks_back = client_id, sequence, digest, looks_back

    def follow(self, trace: RequestTrace | None) -> None:
        """Be traced until it is answered, if its client traces it."""
        if trace is not None:
            self.trace = trace
            self.future.add_done_callback(trace.end_with)

    def begin(self) -> None:
        """Note that the engine has it: it can be withdrawn no longer, unless it reads and is done in parts."""
        self.started = True

    def begin_part(self, *, cut: bool) -> None:
        """Note that a part of it is begun; `cut` where it takes longer than others should wait."""
        self.cut = cut
        self.parts += 1

    def step_aside(self) -> None:
        """Note that another thread is at it: the engine's has nothing to do for it now."""
        self.aside = True

    def step_back(self) -> None:
        """Note that the engine's thread goes on with it."""
        self.aside = False

    def settle_steps(self, steps: int) -> None:
        """Take the reading steps of the model that the memory is of at the job's turn."""
        self.steps = steps

    def fail(self, error: ServerError) -> None:
        """Answer with an error, unless there is an answer."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # seen: that nobody waits for it any more is no fault

    def succeed(self, outcome: Outcome) -> None:
        """Answer, unless there is an answer."""
        if not self.future.done():
            self.future.set_result(outcome)

    def withdraw(self) -> None:
        """Give up the outcome: a job that has not started fails, and leaves its queue uncomputed."""
        if not self.started or (self.cut and not self.operation.writes):
            self.fail(Cancelled("cancelled before it was computed"))
