"""The command `attractor`."""

from pathlib import Path

import click

from attractor_server.cli.doctor import doctor
from attractor_server.cli.options import clear_errors
from attractor_server.cli.patterns import memory
from attractor_server.cli.scale import scale
from attractor_server.cli.search import search
from attractor_server.cli.serve import serve
from attractor_server.cli.stop import stop
from attractor_server.cli.storage import backup, move, verify
from attractor_server.cli.token import token
from attractor_server.cli.training import adapt, evaluate, fit, models, train
from attractor_server.errors import SettingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="attractor")
def main() -> None:
    """Attractor: a memory server whose memories are neural networks."""


@main.command()
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE...",
    help="Store these pictures instead.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("demo.png"), show_default=True, help="The drawing."
)
@click.option("--text", is_flag=True, help="Tell a memory texts, and ask it, instead.")
@click.argument("more_images", nargs=-1, type=click.Path(path_type=Path), metavar="")
def demo(images: tuple[Path, ...], more_images: tuple[Path, ...], output: Path, *, text: bool) -> None:
    """Store pictures in 16 memories, recall them from occluded cues, and compare with simpler ways."""
    with clear_errors():
        if text:
            from attractor_server.demo.texts import run_text_demo  # noqa: PLC0415 - loads ray

            run_text_demo()
            return
        if more_images and not images:
            raise SettingsError(f"saw {str(more_images[0])!r}; expected --image before the pictures")
        from attractor_server.demo import run_demo  # noqa: PLC0415 - loads torch, ray and matplotlib

        run_demo([*images, *more_images], output)


COMMANDS = (
    adapt,
    backup,
    doctor,
    evaluate,
    fit,
    memory,
    models,
    move,
    scale,
    search,
    serve,
    stop,
    token,
    train,
    verify,
)

for command in COMMANDS:
    main.add_command(command)
