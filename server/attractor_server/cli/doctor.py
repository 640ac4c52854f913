"""The command `attractor doctor`."""

import sys
from itertools import chain
from pathlib import Path

import click

from attractor_server.cli.health import examine_health
from attractor_server.cli.options import clear_errors, settings_options
from attractor_server.config import load_settings


@click.command()
@settings_options(
    *("host", "port", "models", "durable", "data_dir", "backend_store_uri", "backend_password_file", "artifact_store"),
    *("tls_cert", "tls_key", "tls_client_ca", "tls_ca", "tls_server_name"),
)
@click.option("--tls", is_flag=True, help="Believe the --server by this system's certificates, without --tls-ca.")
@click.option("--server", default="", metavar="HOST:PORT", help="Also whether a server answers there.")
@click.option(
    "--admin", default="", metavar="HOST:PORT", help="Also what the metrics of a shard say, at its admin port."
)
def doctor(server: str, tls: bool, admin: str, config: Path | None, **flags: str | None) -> None:
    """Say what is wrong with this installation, for a server with these settings; exit with 1 if anything is."""
    with clear_errors(damage_status=1):
        from attractor_server.cli.installation import examine  # noqa: PLC0415 - loads what it looks at

        settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)
        wrong = 0
        for finding in chain(examine(settings, server, tls=tls), examine_health(admin) if admin else ()):
            click.echo(finding)
            wrong += finding.level == "wrong"
        click.echo(f"{wrong or 'nothing'} wrong")
        if wrong:
            sys.exit(1)
