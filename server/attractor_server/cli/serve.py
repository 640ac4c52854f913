"""The command `attractor serve`."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from attractor_server.cli.options import clear_errors, settings_options
from attractor_server.config import ENV_PREFIX, load_settings
from attractor_server.logs import Facts, log_to, make_formatter

_SECRETS = ("BACKEND_STORE_URI", "TOKEN")
"""Variables that no process of Ray is to inherit: shards are told what they need"""


@click.command()
@settings_options()
def serve(config: Path | None, **flags: str | None) -> None:
    """Run a server here, until SIGTERM or Ctrl-C; then finish what was accepted, and exit 0.

    On a Ray cluster the shards go on when this command ends, and the next one takes them up (--on-stop).

    A setting is taken from its flag, else from its variable, else from the TOML file.
    """
    with clear_errors():
        settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)
        for name in _SECRETS:
            os.environ.pop(f"{ENV_PREFIX}{name}", None)
        formatter = make_formatter(settings.log_format)
        log_to(settings.log_level, logging.StreamHandler(), formatter=formatter, facts=Facts())
        from attractor_server.cluster.exposure import check_exposure  # noqa: PLC0415 - for those who serve

        if exposure := check_exposure(settings):
            click.echo(exposure, err=True)
        from attractor_server.cluster.serve import Ended, describe_store, run_server  # noqa: PLC0415 - takes seconds

        stop = threading.Event()

        def ready(address: str, models: Sequence[str], who: str = "Ray is starting") -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            click.echo(
                f"Attractor is ready on {address}, {who}, models: {', '.join(models)}; {describe_store(settings)}"
            )

        with suppress(Ended), run_server(settings, early=ready, ended=stop.is_set) as cluster:
            shards = f"{len(cluster.addresses)} shard{'s' if len(cluster.addresses) > 1 else ''} ({settings.device})"
            ready(cluster.addresses[0], cluster.models, shards)
            while not (stop.wait(1.0) or cluster.stopped):  # a wait without an end would hold signals back
                cluster.check()
            if cluster.stopped:
                click.echo("Attractor was ended by another command", err=True)
                return
            if settings.leaves_shards:
                click.echo(
                    "Attractor's shards go on: `attractor serve` takes them up, `attractor stop` ends them", err=True
                )
                return
            click.echo("Attractor is finishing what it accepted", err=True)
            if not cluster.drain(settings.grace_s):
                click.echo(f"Some requests were cut off after {settings.grace_s:g} s", err=True)
