"""Options that commands share, and how they tell errors."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import attractor
from attractor._token import check_token
from attractor_server.cli.tls_options import read_tls, tls_options
from attractor_server.config import ENV_PREFIX, Settings
from attractor_server.errors import ServerError

Command = Callable[..., None]


def server_option(command: Command) -> Command:
    """Add the options that say where the server is, and how to speak to it."""
    where = click.option(
        "--server", default="127.0.0.1:7171", show_default=True, metavar="HOST:PORT", help="Where the server is."
    )
    return where(tls_options(command))


_TOKEN, _TOKEN_FILE = f"{ENV_PREFIX}TOKEN", f"{ENV_PREFIX}TOKEN_FILE"
"""Variables with the token of a client, or the file that has it; no flags, which all users of a machine can read"""

_AUTHORIZATION = "authorization"

_PLAINTEXT = f"{ENV_PREFIX}PLAINTEXT_TOKEN"
"""Variable that lets the token be sent to other machines without TLS"""


def _read_token() -> str | None:
    if (token := os.environ.get(_TOKEN)) or (path := os.environ.get(_TOKEN_FILE)) is None:
        return token or None
    return Path(path).read_text().strip()


def _may_be_plain() -> bool:
    return os.environ.get(_PLAINTEXT, "").lower() in ("1", "true", "yes", "on")


def read_credentials(server: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which calls to that server prove who makes them, where the SDK has no method for them.

    Raises:
        InvalidRequest: the token would go where others can read it, or is none.
    """
    token = _read_token()
    attractor.connect(server, tls=read_tls(), token=token, plaintext_token=_may_be_plain())  # which checks both
    return () if token is None else ((_AUTHORIZATION, f"Bearer {check_token(token)}"),)


@contextmanager
def connect(server: str) -> Iterator[attractor.Client]:
    """Open a client; print what the user can mend as one line, and exit with 2."""
    try:
        with attractor.Client(server, tls=read_tls(), token=_read_token(), plaintext_token=_may_be_plain()) as client:
            yield client
    except (attractor.AttractorError, OSError) as error:
        click.echo(f"attractor: {error}", err=True)
        sys.exit(2)


def settings_options(*names: str) -> Callable[[Command], Command]:
    """Add a flag for each of these settings, with its description and variable; without names, for all of them.

    Where all are named their defaults are shown as well.
    """

    def add_flags(command: Command) -> Command:
        for name in reversed(names or tuple(Settings.model_fields)):
            field = Settings.model_fields[name]
            default = "" if names else f"; default {'none' if field.default is None else repr(field.default)}"
            text = f"{field.description}  [{ENV_PREFIX}{name.upper()}{default}]"
            flag, shown = f"--{name.replace('_', '-')}", "VALUE"
            command = (
                click.option(flag, name, metavar=shown, help=text, is_flag=False, flag_value="yes")(command)
                if field.annotation is bool  # which may stand alone
                else click.option(flag, name, metavar=shown, help=text)(command)
            )
        return click.option(
            "--config", type=click.Path(path_type=Path), envvar=f"{ENV_PREFIX}CONFIG", help="TOML file with settings."
        )(command)

    return add_flags


@contextmanager
def clear_errors(*, damage_status: int = 2) -> Iterator[None]:
    """Print what the user can mend as one line, and exit with 2; with `damage_status` for what is damaged."""
    try:
        yield
    except ServerError as error:
        click.echo(f"attractor: {error.message}", err=True)
        sys.exit(damage_status if error.code == "DATA_LOSS" else 2)
