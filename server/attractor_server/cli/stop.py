"""The command `attractor stop`: the end of a server on a Ray cluster."""

from pathlib import Path

import click

from attractor_server.cli.options import clear_errors, settings_options
from attractor_server.config import load_settings
from attractor_server.errors import SettingsError


@click.command()
@settings_options("ray_address", "grace_s")
def stop(config: Path | None, **flags: str | None) -> None:
    """End the server on a Ray cluster, with its shards, once they have finished what they accepted.

    To be run where `attractor serve --ray-address` is: on a node of that cluster.
    """
    with clear_errors():
        settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)
        if not settings.ray_address:
            raise SettingsError("ray_address: saw none; expected the Ray cluster whose server is to end")
        from attractor_server.cluster.ending import stop_shards  # noqa: PLC0415 - loads ray
        from attractor_server.cluster.ray_node import ray_node  # noqa: PLC0415 - loads ray

        with ray_node(settings.ray_address):
            finished = stop_shards(settings.grace_s)
        click.echo("Attractor has ended")
        if not finished:
            click.echo(f"Some requests were cut off after {settings.grace_s:g} s", err=True)
