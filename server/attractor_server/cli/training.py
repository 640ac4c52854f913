"""The commands `attractor train`, `models`, `adapt`, `fit` and `evaluate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attractor_server.cli.options import clear_errors
from attractor_server.config import ENV_PREFIX
from attractor_server.errors import ServerError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from attractor_server.training.datasets.glyphs import Split


@click.command()
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
    with clear_errors():
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


@click.command()
@click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    envvar=f"{ENV_PREFIX}MODELS",
    help="Folder with more model files.",
)
def models(folder: Path | None) -> None:
    """List the models that a server here would offer, with their rated capacity and the error at it."""
    with clear_errors():
        from attractor_server.model_registry import load_models, table_of  # noqa: PLC0415 - loads torch

        click.echo(table_of(load_models(folder, device="cpu").values()))


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("samples", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Folder for the model file.",
)
@click.option("--name", help="Of the adapted model.  [default: MODEL-adapted]")
@click.option(
    "--mixture", is_flag=True, help="Fit also to cues whose gaps nobody tells of, and to the stored vectors themselves."
)
@click.option(
    "--wordings",
    type=click.Path(path_type=Path),
    metavar="OTHERS",
    help="Fit to a mixture with cues in other words: a NumPy file with embeddings of the texts of the first SAMPLES in "
    "other words, a row for each.",
)
def adapt(  # noqa: PLR0913
    model: str, samples: Path, output: Path, name: str | None, mixture: bool, wordings: Path | None
) -> None:
    """Fit a vector MODEL to embeddings of another source, within seconds and without training.

    MODEL is a file, or the name of a model that ships. SAMPLES is a NumPy file (.npy) of some thousand embeddings,
    (n, entries), as they will be stored.
    """
    try:
        from attractor_server.energy.model_file import SUFFIX, save_model  # noqa: PLC0415 - loads torch
        from attractor_server.training.adapt import Mixture, adapt_model  # noqa: PLC0415
        from attractor_server.training.model_lookup import open_model  # noqa: PLC0415

        opened = open_model(model)
        others = None if wordings is None else _read(wordings, "others")
        mixed = Mixture(others=others) if mixture or wordings else None
        made = adapt_model(opened, _read(samples), name=name or f"{opened.name}-adapted", mixture=mixed)
        made = save_model(made, output / f"{made.name}{SUFFIX}")
        click.echo(f"{made.name} {made.digest} is in {output}")
    except ServerError as error:
        click.echo(f"attractor: {error.message}", err=True)
        sys.exit(2)


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def fit(models: tuple[Path, ...]) -> None:
    """Fit what stands beside the trained parameters of each MODEL file, and write it there.

    That is the calibration of pages that see vectors in their own metric, and the posterior by which kept patterns take
    part in reading. The model keeps its digest, so that memories stay memories of it.
    """
    with clear_errors():
        from attractor_server.energy.model_file import load_model, save_model  # noqa: PLC0415 - loads torch
        from attractor_server.training.fits import fit_beside  # noqa: PLC0415

        for path in models:
            saved = save_model(fit_beside(load_model(path)), path)
            click.echo(f"{saved.name} {saved.digest} has its fits anew")


def _read(path: Path, what: str = "samples") -> "Tensor":
    import numpy as np  # noqa: PLC0415 - comes with torch
    import torch  # noqa: PLC0415

    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SettingsError(f"{what}: {path} cannot be read: {error}; expected a NumPy file (.npy)") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        seen = values.dtype if isinstance(values, np.ndarray) else "several arrays"
        raise SettingsError(f"{what}: saw {seen} in {path}; expected one array of numbers")
    return torch.from_numpy(values.astype(np.float32))


SPLITS = ("test", "validation", "train")


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--control", type=click.Path(path_type=Path), help="The same network trained without writes.")
@click.option(
    "--memories", type=click.IntRange(min=2), default=64, show_default=True, help="Memories that figures are means of."
)
@click.option(
    "--counts", metavar="N,N,...", help="Patterns in a memory.  [default: half the capacity, the capacity, twice that]"
)
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Data to measure on.")
@click.option("--curves", is_flag=True, help="Also against patterns, reading steps, age, and bits of a weight.")
@click.option("--pages", is_flag=True, help="Also a thousand patterns in one memory of pages.")
@click.option("--transfer", is_flag=True, help="Also fitted to embeddings of another source.")
@click.option("--mixture", is_flag=True, help="Also cues of a mixture of kinds, beside look-ups tuned on it.")
@click.option("--no-rivals", is_flag=True, help="The memory alone: much faster.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each row.")
def evaluate(  # noqa: PLR0913
    models: tuple[str, ...],
    control: Path | None,
    memories: int,
    counts: str | None,
    split: "Split",
    curves: bool,
    pages: bool,
    transfer: bool,
    mixture: bool,
    no_rivals: bool,
    as_json: bool,
) -> None:
    """Measure a MODEL on data it has never seen, beside rivals tuned as well as they can be.

    MODEL is a file, or the name of a model that ships. Several files are several seeds of one recipe: figures are then
    means over seeds.
    """
    try:
        from attractor_server.training.evaluation.report import rich_tables  # noqa: PLC0415
        from attractor_server.training.evaluation.run import Extent  # noqa: PLC0415 - loads torch
        from attractor_server.training.evaluation.run import evaluate as measure  # noqa: PLC0415

        extent = Extent(
            counts=_counts(counts),
            memories=memories,
            split=split,
            rivals=not no_rivals,
            curves=curves,
            pages=pages,
            transfer=transfer,
            mixture=mixture,
        )
        rows = measure(models, extent, control=None if control is None else str(control))
        if as_json:
            click.echo("\n".join(row.as_json() for row in rows))
            return
        from rich.console import Console

        console = Console()
        for table in rich_tables(rows):
            console.print(table)
    except ServerError as error:
        click.echo(f"attractor: {error.message}", err=True)
        sys.exit(2)


def _counts(listed: str | None) -> tuple[int, ...]:
    if listed is None:
        return ()
    try:
        counts = tuple(int(one) for one in listed.split(","))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        raise click.BadParameter(
            f"saw {listed!r}; expected whole numbers from 1 on, as 16,32,64", param_hint="--counts"
        )
    return counts
