"""How commands reach a running server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

import attractor

server_option = click.option(
    "--server", default="127.0.0.1:7171", show_default=True, metavar="HOST:PORT", help="Where the server is."
)


@contextmanager
def connected(server: str) -> Iterator[attractor.Client]:
    """A client; what the user can mend is told in one line, and the exit status is 2."""
    try:
        with attractor.Client(server) as client:
            yield client
    except (attractor.AttractorError, OSError) as error:
        click.echo(f"attractor: {error}", err=True)
        sys.exit(2)
