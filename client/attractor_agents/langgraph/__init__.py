"""LangGraph's long-term memory, kept by a server of Attractor."""

from attractor_agents.langgraph.store import AttractorStore

__all__ = ["AttractorStore"]
