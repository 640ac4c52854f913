"""The command `attractor`."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from attractor_server.cli_adapt import adapt
from attractor_server.cli_doctor import doctor
from attractor_server.cli_evaluate import evaluate
from attractor_server.cli_memory import memory
from attractor_server.cli_scale import scale
from attractor_server.cli_storage import backup, verify
from attractor_server.config import ENV_PREFIX, Settings, load_settings
from attractor_server.errors import ServerError, SettingsError

Command = Callable[..., None]


def settings_options(command: Command) -> Command:
    """One flag for each setting, with its description, its variable and its default."""
    for name, field in reversed(Settings.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        default = "none" if field.default is None else repr(field.default)
        text = f"{field.description}  [{ENV_PREFIX}{name.upper()}; default {default}]"
        command = click.option(flag, name, metavar="VALUE", help=text)(command)
    return click.option(
        "--config", type=click.Path(path_type=Path), envvar=f"{ENV_PREFIX}CONFIG", help="TOML file with settings."
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="attractor")
def main() -> None:
    """Attractor: a memory server whose memories are neural networks."""


main.add_command(adapt)
main.add_command(backup)
main.add_command(doctor)
main.add_command(evaluate)
main.add_command(verify)


@main.command()
@settings_options
def serve(config: Path | None, **flags: str | None) -> None:
    """Run a server here, until SIGTERM or Ctrl-C; then finish what was accepted, and exit 0.

    A setting is taken from its flag, else from its variable, else from the TOML file.
    """
    with _clear_errors():
        settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        from attractor_server.cluster.serving import Ended, kept_in, serving  # noqa: PLC0415 - takes seconds

        stop = threading.Event()

        def ready(address: str, models: Sequence[str], who: str = "Ray is starting") -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            click.echo(f"Attractor is ready on {address}, {who}, models: {', '.join(models)}; {kept_in(settings)}")

        with suppress(Ended), serving(settings, early=ready, ended=stop.is_set) as cluster:
            shards = f"{len(cluster.addresses)} shard{'s' if len(cluster.addresses) > 1 else ''} ({settings.device})"
            ready(cluster.addresses[0], cluster.models, shards)
            while not stop.wait(1.0):  # a wait without an end would hold signals back
                cluster.check()
            click.echo("Attractor is finishing what it accepted", err=True)
            if not cluster.drain(settings.grace_s):
                click.echo(f"Some requests were cut off after {settings.grace_s:g} s", err=True)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Folder for the model file.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="Folder the run is kept in, to be resumed.  [default: runs/RECIPE]",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=45.0,
    show_default=True,
    help="Time budget; rates decay towards its end.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Goes before the recipe's seed.")
@click.option(
    "--parent", metavar="MODEL", help="Start from what a model has learned: a file, or the name of one that ships."
)
@click.option("--control", is_flag=True, help="Train the same network without writes, to compare with.")
@click.option("--fresh", is_flag=True, help="Start anew, even where a run could be resumed.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--device", default="cpu", show_default=True, help="Where the network is trained, as cpu or cuda.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that draw episodes of their own and average their gradients, one processor or GPU each.",
)
def train(  # noqa: PLR0913
    recipe: Path,
    output: Path,
    run_dir: Path | None,
    minutes: float,
    seed: int | None,
    parent: str | None,
    control: bool,
    fresh: bool,
    quiet: bool,
    device: str,
    workers: int,
) -> None:
    """Meta-train the model of a RECIPE: a TOML file, or the name of one that ships."""
    with _clear_errors():
        from attractor_server.training.recipe import find_recipe  # noqa: PLC0415 - loads torch
        from attractor_server.training.run import CONTROL, Options  # noqa: PLC0415
        from attractor_server.training.run import train as meta_train  # noqa: PLC0415

        path = find_recipe(recipe)
        seeded = path.stem + (CONTROL if control else "") + ("" if seed is None else f"-seed-{seed}")
        options = Options(
            output=output,
            run_dir=run_dir or Path("runs") / seeded,
            budget_s=minutes * 60,
            seed=seed,
            control=control,
            parent=parent,
            resume=not fresh,
            device=device,
            show_progress=not quiet,
        )
        if workers > 1:
            from attractor_server.training.ray_train import train_on_workers  # noqa: PLC0415 - loads ray

            model = train_on_workers(path, options, workers=workers)
        else:
            model = meta_train(path, options)
        click.echo(f"{model.name} {model.digest} is in {output}")


@main.command()
@click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    envvar=f"{ENV_PREFIX}MODELS",
    help="Folder with more model files.",
)
def models(folder: Path | None) -> None:
    """List the models that a server here would offer, with their rated capacity and the error at it."""
    with _clear_errors():
        from attractor_server.app import load_models  # noqa: PLC0415 - loads torch
        from attractor_server.listing import table_of  # noqa: PLC0415

        click.echo(table_of(load_models(folder, device="cpu").values()))


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
@click.argument("more_images", nargs=-1, type=click.Path(path_type=Path), metavar="")
def demo(images: tuple[Path, ...], more_images: tuple[Path, ...], output: Path) -> None:
    """Store pictures in 16 memories, recall them from occluded cues, and compare with simpler ways."""
    with _clear_errors():
        if more_images and not images:
            raise SettingsError(f"saw {str(more_images[0])!r}; expected --image before the pictures")
        from attractor_server.demo import run_demo  # noqa: PLC0415 - loads torch, ray and matplotlib

        run_demo([*images, *more_images], output)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """What the user can mend is told in one line, and the exit status is 2."""
    try:
        yield
    except ServerError as error:
        click.echo(f"attractor: {error.message}", err=True)
        sys.exit(2)


main.add_command(memory)
main.add_command(scale)


if __name__ == "__main__":
    main()
