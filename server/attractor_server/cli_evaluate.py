"""The command `attractor evaluate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attractor_server.errors import ServerError

if TYPE_CHECKING:
    from attractor_server.training.datasets.glyphs import Split

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
    no_rivals: bool,
    as_json: bool,
) -> None:
    """Measure a MODEL on data it has never seen, beside rivals tuned as well as they can be.

    MODEL is a file, or the name of a model that ships. Several files are several seeds of one recipe: figures are then
    means over seeds.
    """
    try:
        from attractor_server.training.quality.evaluating import Extent  # noqa: PLC0415 - loads torch
        from attractor_server.training.quality.evaluating import evaluate as measure  # noqa: PLC0415
        from attractor_server.training.quality.tables import rich_tables  # noqa: PLC0415

        extent = Extent(
            counts=_counts(counts),
            memories=memories,
            split=split,
            rivals=not no_rivals,
            curves=curves,
            pages=pages,
            transfer=transfer,
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
