"""Resources and prompts."""

import json
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError

from attractor import AttractorError
from attractor_agents.mcp.answers import DATA_NOTE, describe
from attractor_agents.mcp.spaces import Ctx, open_space
from attractor_agents.memory import AgentMemory

OWN = "own"
"""The server's own space, in the address of a resource"""
NEWEST = 10


def add_resources(server: MCPServer[AgentMemory]) -> None:
    """Add memories and summaries of spaces."""

    @server.resource("attractor://{+space}/memories/{id}", mime_type="application/json")
    async def memory(space: str, id: str, ctx: Ctx) -> str:  # noqa: A002
        """One memory, whole."""
        try:
            found = await _open(ctx, space).get(id)
        except AttractorError as error:
            raise ResourceError(str(error)) from None
        if not found:
            raise ResourceNotFoundError(f"id: saw {id!r}, which nothing in this space has")
        return describe(found[0]).model_dump_json()

    @server.resource("attractor://{+space}/summary", mime_type="application/json")
    async def summary(space: str, ctx: Ctx) -> str:
        """The number of memories in a space, and the newest of them."""
        try:
            opened = _open(ctx, space)
            newest: list[dict[str, Any]] = []
            async for note in opened.list(newest_first=True):
                newest.append(describe(note, cut=True).model_dump(mode="json"))
                if len(newest) == NEWEST:
                    break
            total = await opened.count()
        except AttractorError as error:
            raise ResourceError(str(error)) from None
        return json.dumps({"space": space, "memories": total, "newest": newest, "note": DATA_NOTE}, ensure_ascii=False)


def add_prompts(server: MCPServer[AgentMemory]) -> None:
    """Add what users may choose to say."""

    @server.prompt(title="Answer with memory")
    def with_memory(question: str) -> str:
        """Answer a question with what is remembered."""
        return (
            f"Call recall with what this question is about, then answer it from what comes back. If nothing is known, "
            f"say that nothing is remembered about it: {question}"
        )

    @server.prompt(title="Reflect")
    def reflect(subject: str = "what we did today") -> str:
        """Tidy up what is remembered about something."""
        return (
            f"Call recall about {subject}. Remember what is new in this conversation and worth keeping, correct with "
            "update_memory what has changed, and name what contradicts itself."
        )


def _open(ctx: Ctx, space: str) -> AgentMemory:
    try:
        return open_space(ctx, None if space == OWN else space)
    except ToolError as error:
        raise ResourceNotFoundError(str(error)) from None
