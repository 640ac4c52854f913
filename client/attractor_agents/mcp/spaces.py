"""Spaces that a model may name: those below the one that the server was started with."""

import re
from typing import Any, TypeAlias

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from attractor_agents.memory import AgentMemory

Ctx: TypeAlias = Context[AgentMemory, Any]
"""Context of a call; its lifespan's is the memory of the space that the server was started with"""

_NAMES = re.compile(r"(?!\.+(/|$))[A-Za-z0-9._-]+(/(?!\.+(/|$))[A-Za-z0-9._-]+)*")


def open_space(ctx: Ctx, space: str | None) -> AgentMemory:
    """Return the memory of a space below the server's, or the server's own.

    Raises:
        ToolError: there cannot be such a space.
    """
    own = ctx.request_context.lifespan_context
    if not space:
        return own
    if not _NAMES.fullmatch(space):
        expected = "expected names of letters, digits, '.', '_' and '-', separated by '/'"
        raise ToolError(f"space: saw {space!r}; {expected}, as branch returns them, or none")
    return own.at(f"{own.space}/{space}")
