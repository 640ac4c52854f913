"""The command `attractor`, which `attractor-server` provides where it is installed, but for `attractor mcp`.

It is no module of `attractor`, so that gRPC is first imported as the server wants it.
"""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the server's command, or `attractor mcp`; without either's package say how to install it, and exit with 1."""
    if sys.argv[1:2] == ["mcp"]:
        _run_mcp()
        return
    if find_spec("attractor_server") is None:
        sys.exit("attractor: the server is not installed here; pip install attractor-server")
    from attractor_server.cli.main import main as run_command  # noqa: PLC0415 - the client works without it

    run_command()


def _run_mcp() -> None:
    if find_spec("attractor_agents") is None or find_spec("mcp") is None:
        sys.exit("attractor: what serves memories to models is not installed; pip install 'attractor-agents[text,mcp]'")
    from attractor_agents.mcp.command import main as run_command  # noqa: PLC0415 - as above

    del sys.argv[1]
    run_command()
