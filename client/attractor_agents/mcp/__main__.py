"""Runs `attractor-mcp`."""

from attractor_agents.mcp.command import main

main()
