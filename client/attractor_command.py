"""The command `attractor`, which `attractor-server` provides where it is installed.

It is no module of `attractor`, so that gRPC is first imported as the server wants it.
"""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the server's command; without a server say how to install it, and exit with 1."""
    if find_spec("attractor_server") is None:
        sys.exit("attractor: the server is not installed here; pip install attractor-server")
    from attractor_server.cli.main import main as run_command  # noqa: PLC0415 - the client works without it

    run_command()
