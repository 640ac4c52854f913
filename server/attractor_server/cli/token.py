"""The command `attractor token new`."""

import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from attractor_server.cli.options import clear_errors, settings_options
from attractor_server.config import load_settings
from attractor_server.errors import SettingsError
from attractor_server.identity.grants import parse_grants
from attractor_server.identity.identity_file import format_token, read_identities
from attractor_server.identity.tokens import draw_token, hash_token


@click.group()
def token() -> None:
    """Make tokens, by which clients prove who they are."""


@token.command()
@click.argument("name")
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="PATTERN:ROLE",
    help="Memories that it may read, write or administer: a name, NAMESPACE/* or *, and read, write or admin. "
    "Repeat it for more.",
)
@click.option(
    "--expires-days", type=click.FloatRange(min=0, min_open=True), help="Days until it ends.  [default: never]"
)
@settings_options("identities")
def new(
    name: str, grants: tuple[str, ...], expires_days: float | None, config: Path | None, identities: str | None
) -> None:
    """Draw a token for NAME, add its digest to the file of identities, and print the token, once.

    A server that reads the file takes the token a second later. NAME may have several; take one back by deleting its
    entry. Without a file the entry is printed to stderr.
    """
    with clear_errors():
        settings = load_settings({} if identities is None else {"identities": identities}, config)
        drawn = draw_token()
        expires = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
        entry = format_token(name, hash_token(drawn), parse_grants(list(grants), where="grant"), expires)
        if settings.identities is None:
            click.echo(entry, err=True)
        else:
            _append(settings.identities, entry)
            click.echo(f"{name} is in {settings.identities}; this is the token, which is kept nowhere:", err=True)
        click.echo(drawn)


def _append(path: Path, entry: str) -> None:
    """Add an entry to the file, which servers read whole at any time, as it was or as it will be."""
    path = path.resolve()
    if path.exists():
        read_identities(path)
    try:
        before = path.read_text() if path.exists() else ""
        mode = path.stat().st_mode if path.exists() else 0o600
        draft, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(draft, "w") as file:
                file.write(f"{before.rstrip()}\n\n{entry}" if before.strip() else entry)
                file.flush()
                os.fchmod(file.fileno(), mode & 0o777)
                os.fsync(file.fileno())
            read_identities(Path(name))
            Path(name).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()
    except OSError as error:
        raise SettingsError(f"identities: saw {str(path)!r}, which cannot be written: {error.strerror}") from None
