"""A server of the Model Context Protocol, by which models remember, recall and forget."""

from attractor_agents.mcp.server import make_server

__all__ = ["make_server"]
