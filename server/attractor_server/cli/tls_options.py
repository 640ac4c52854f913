"""Options of commands that speak to a server: whose certificates they believe, and which they show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from grpc import aio

import attractor
from attractor._tls import Credentials
from attractor_server.config import ENV_PREFIX

Command = Callable[..., None]

_KEY: Final = f"{__name__}.given"
"""Place of the values in the context of a command, which takes none of them as arguments"""

_FILES: Final = {
    "ca": "PEM file with the certificates that the server's is verified by.",
    "cert": "PEM file with the certificate to show, for servers that ask for one.",
    "key": "PEM file with the key of that certificate.",
}


def _keep(context: click.Context, option: click.Parameter, value: object) -> None:
    context.meta.setdefault(_KEY, {})[option.name] = value


_KEPT: Final[dict[str, Any]] = {"expose_value": False, "callback": _keep}


def tls_options(command: Command) -> Command:
    """Add the options to a command; `read_tls` returns what they say."""
    for option in (
        click.option(
            "--tls",
            is_flag=True,
            envvar=f"{ENV_PREFIX}TLS",
            show_envvar=True,
            help="Speak TLS; implied by the options below. Without --tls-ca this system's certificates are believed.",
            **_KEPT,
        ),
        *(
            click.option(
                f"--tls-{name}",
                type=click.Path(path_type=Path),
                envvar=f"{ENV_PREFIX}TLS_{name.upper()}",
                show_envvar=True,
                metavar="FILE",
                help=text,
                **_KEPT,
            )
            for name, text in _FILES.items()
        ),
        click.option(
            "--tls-server-name",
            envvar=f"{ENV_PREFIX}TLS_SERVER_NAME",
            show_envvar=True,
            metavar="NAME",
            help="Name in the server's certificate, where it is not that in --server.",
            **_KEPT,
        ),
    )[::-1]:
        command = option(command)
    return command


def read_tls() -> attractor.TLS | None:
    """Return the TLS that the command was told to speak; None for none."""
    given = click.get_current_context().meta.get(_KEY, {})
    if not any(given.values()):
        return None
    return attractor.TLS(
        ca=given["tls_ca"],
        certificate=given["tls_cert"],
        key=given["tls_key"],
        server_name=given["tls_server_name"] or "",
    )


class Channels:
    """Channels to the shards of a server, for calls that the SDK has no method for."""

    def __init__(self, server: str, tls: attractor.TLS | None) -> None:
        self._credentials = None if tls is None else Credentials(tls, server)

    async def open(self, address: str) -> aio.Channel:
        """Return a channel to a shard."""
        if (credentials := self._credentials) is None:
            return aio.insecure_channel(address)
        await credentials.refresh()
        named = ("grpc.ssl_target_name_override", credentials.server_name)
        return aio.secure_channel(address, credentials.channel_credentials, options=(named,))
