"""Tools of the server: their docstrings and descriptions are what models read."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import AwareDatetime, Field

from attractor_agents.mcp import answers
from attractor_agents.mcp.answers import describe, describe_hit
from attractor_agents.mcp.spaces import Ctx, open_space
from attractor_agents.memory import AgentMemory
from attractor_agents.types import KNOWN, Hit, Note

Text = Annotated[str, Field(min_length=1, max_length=8000, description="A fact in full sentences, with names")]
Query = Annotated[str, Field(min_length=1, max_length=8000, description="A question, or what it is about")]
Space = Annotated[str | None, Field(description="A branch's space; leave out for the usual memory")]
Conditions = Annotated[
    dict[str, Any] | None,
    Field(description='By metadata: {"kind": "note", "priority": {"$gte": 2}}; also $ne $gt $lt $in $exists $contains'),
]
Metadata = Annotated[dict[str, Any] | None, Field(description="What to filter by later: kind, person, project, source")]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Name of a checkpoint")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Name of the branch")]
Id = Annotated[str, Field(min_length=1, max_length=256, description="Id of a memory")]
CANDIDATES = 10
RECALL_CHARS = 16_000
"""Of all texts of one answer"""


async def remember(  # noqa: PLR0913 - a tool's arguments
    text: Text,
    ctx: Ctx,
    metadata: Metadata = None,
    id: Annotated[str | None, Field(max_length=256, description="Replaces what has this id")] = None,  # noqa: A002
    expires_in_hours: Annotated[float | None, Field(gt=0, description="Forgotten by itself after that")] = None,
    space: Space = None,
) -> answers.RememberAnswer:
    """Store one fact for later conversations. Call it when the user tells something worth keeping: facts, preferences,
    decisions. What is known already is not stored twice; its id is returned.
    """
    ttl_s = None if expires_in_hours is None else expires_in_hours * 3600
    result = await open_space(ctx, space).remember(text, id=id, metadata=metadata, ttl_s=ttl_s)
    return answers.RememberAnswer(id=result.id, new=result.new, nearest=_describe(result.nearest))


async def recall(  # noqa: PLR0913 - a tool's arguments
    query: Query,
    ctx: Ctx,
    limit: Annotated[int, Field(ge=1, le=20)] = 5,
    filter: Conditions = None,  # noqa: A002
    since: Annotated[AwareDatetime | None, Field(description="Nothing older: 2026-11-29T00:00:00Z")] = None,
    space: Space = None,
) -> answers.RecallAnswer:
    """Find what is remembered about something. Call it before you answer about the user, people, projects or anything
    that may have come up before. `known` false means that nothing is remembered about it.
    """
    found = await open_space(ctx, space).recall(query, k=limit, filter=filter, since=since, max_chars=RECALL_CHARS)
    return answers.RecallAnswer(known=found.known, results=[*map(describe_hit, found.hits)], total=found.total)


async def seen_before(text: Text, ctx: Ctx, space: Space = None) -> answers.SeenAnswer:
    """Tell how probably a statement, or one that says the same, is remembered. Call it to find out whether something
    is news, before you store or repeat it.
    """
    seen = await open_space(ctx, space).seen(text)
    return answers.SeenAnswer(probability=round(seen.probability, 3), nearest=_describe(seen.nearest))


async def list_memories(
    ctx: Ctx,
    filter: Conditions = None,  # noqa: A002
    cursor: Annotated[str, Field(pattern=r"^[0-9]{0,9}$", description="next_cursor of the answer before")] = "",
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
    space: Space = None,
) -> answers.ListAnswer:
    """List what is remembered, the newest first, page by page. Call it to review or to tidy up; to find something, call
    recall.
    """
    memory = open_space(ctx, space)
    total = await memory.count(filter=filter)
    start = int(cursor or 0)
    end = min(start + limit, total)
    items = [describe(note, cut=True) async for note in _iter_slice(memory, filter, start, end)]
    return answers.ListAnswer(items=items, next_cursor=str(end) if start < end < total else None, total=total)


async def update_memory(
    id: Id,  # noqa: A002
    ctx: Ctx,
    text: Annotated[str | None, Field(min_length=1, max_length=8000, description="The text as it should be")] = None,
    metadata: Metadata = None,
    space: Space = None,
) -> answers.UpdateAnswer:
    """Correct a memory: give it another text, other metadata, or both. Call it when a fact has changed, with the id
    that recall returned, rather than remember the opposite beside it.
    """
    if text is None and metadata is None:
        raise ToolError("text: saw neither text nor metadata; expected at least one of them")
    before = await open_space(ctx, space).update(id, text=text, metadata=metadata)
    return answers.UpdateAnswer(id=id, before=before.text)


async def forget(
    ctx: Ctx,
    ids: Annotated[list[Id] | None, Field(max_length=100, description="Ids of what to forget")] = None,
    about: Annotated[str | None, Field(max_length=8000, description="What to forget, if its id is not known")] = None,
    confirm: Annotated[bool, Field(description="True to forget more than one, after the user agreed")] = False,
    space: Space = None,
) -> answers.ForgetAnswer:
    """Forget for good, when the user asks for it. With `about` one memory that is clearly meant is forgotten; otherwise
    candidates come back to choose ids from. More than one id needs confirm.
    """
    if (ids is None) == (about is None):
        raise ToolError("ids: saw both or none of ids and about; expected one of them")
    memory = open_space(ctx, space)
    if about is not None:
        found = await memory.recall(about, k=CANDIDATES)
        if not found.known or found.hits[0].probability < KNOWN:
            note = "Nothing was forgotten: it is not clear what is meant. Call forget with ids."
            return answers.ForgetAnswer(forgotten=[], candidates=[*map(describe_hit, found.hits)], note=note)
        ids = [found.hits[0].id]
    if ids is not None and len(ids) > 1 and not confirm:
        raise ToolError(f"confirm: saw false with {len(ids)} ids; expected true, once the user has agreed")
    forgotten = await memory.forget(ids or [])
    return answers.ForgetAnswer(forgotten=forgotten, note="" if forgotten else "Nothing has these ids.")


async def checkpoint(tag: Tag, ctx: Ctx, space: Space = None) -> answers.StateAnswer:
    """Keep the memory as it is now under a tag, to go back to. Call it before changes that may have to be undone."""
    memory = open_space(ctx, space)
    await memory.checkpoint(tag)
    return answers.StateAnswer(tag=tag, memories=await memory.count())


async def rollback(tag: Tag, ctx: Ctx, space: Space = None) -> answers.StateAnswer:
    """Go back to a checkpoint: everything remembered, corrected or forgotten since is undone."""
    memory = open_space(ctx, space)
    await memory.rollback(tag)
    return answers.StateAnswer(tag=tag, memories=await memory.count())


async def branch(name: Name, ctx: Ctx, space: Space = None) -> answers.StateAnswer:
    """Make a copy of the memory to try something in, while the memory itself stays. Pass the returned space to the
    other tools to work in the copy.
    """
    made = await open_space(ctx, space).branch(name)
    inside = f"{space}/{name}" if space else name
    return answers.StateAnswer(space=inside, memories=await made.count())


async def _iter_slice(
    memory: AgentMemory, conditions: dict[str, Any] | None, start: int, end: int
) -> AsyncIterator[Note]:
    at = 0
    async for note in memory.list(filter=conditions, newest_first=True):
        if at >= end:
            return
        if at >= start:
            yield note
        at += 1


def _describe(hit: Hit | None) -> answers.FoundMemory | None:
    return None if hit is None else describe_hit(hit)


def _hint(*, reads: bool = False, destroys: bool = False, repeats: bool = False) -> ToolAnnotations:
    return ToolAnnotations(
        read_only_hint=reads, destructive_hint=destroys, idempotent_hint=reads or repeats, open_world_hint=False
    )


TOOLS: Sequence[tuple[Callable[..., Any], str, ToolAnnotations]] = (
    (remember, "Remember", _hint(repeats=True)),
    (recall, "Recall", _hint(reads=True)),
    (seen_before, "Seen before?", _hint(reads=True)),
    (list_memories, "List memories", _hint(reads=True)),
    (update_memory, "Correct a memory", _hint(destroys=True, repeats=True)),
    (forget, "Forget", _hint(destroys=True, repeats=True)),
    (checkpoint, "Keep a checkpoint", _hint(repeats=True)),
    (rollback, "Go back to a checkpoint", _hint(destroys=True, repeats=True)),
    (branch, "Branch", _hint()),
)
"""Functions, titles and hints"""
