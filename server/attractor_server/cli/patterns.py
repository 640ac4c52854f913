"""The command `attractor memory`: the memories of a running server, and patterns from files to them and back."""

from pathlib import Path
from zipfile import BadZipFile

import click
import numpy as np
from numpy.typing import NDArray

import attractor
from attractor_server.cli.items import items
from attractor_server.cli.memories import COMMANDS, create, ls, show
from attractor_server.cli.options import connect, server_option

file_argument = click.argument("file", type=click.Path(path_type=Path), metavar="FILE.npy|FILE.npz")

kept_option = click.option(
    "--kept/--no-kept",
    default=None,
    help="Whether kept patterns take part in the answer, or the network answers alone.  [default: as the memory is "
    "set]",
)


@click.group()
def memory() -> None:
    """Make, list and copy memories; store, query, recognize and erase the patterns of a file.

    A .npy file has the patterns of a model with one field, a .npz file an array for each field; a single pattern or a
    batch of them. Texts are arrays of strings.
    """


memory.add_command(create)

memory.add_command(show)

memory.add_command(ls)

memory.add_command(items)

for command in COMMANDS:
    memory.add_command(command)


@memory.command()
@click.argument("name")
@file_argument
@click.option("--model", help="Make the memory from this model, if there is none of that name.")
@server_option
def store(name: str, file: Path, model: str | None, server: str) -> None:
    """Write all patterns of a file into the memory NAME, at once."""
    with connect(server) as client:
        patterns = _read(file)
        target = client.memory(name) if model is None else client.create_memory(name, model=model)
        result = target.store(patterns)
    click.echo(f"{name} is at version {result.version} with {result.total} patterns")


@memory.command()
@click.argument("name")
@file_argument
@server_option
def erase(name: str, file: Path, server: str) -> None:
    """Make the patterns of a file, whole and as they were stored, strangers to the memory NAME."""
    with connect(server) as client:
        result = client.memory(name).erase(_read(file))
    click.echo(f"{name} is at version {result.version} with {result.total} patterns")


@memory.command()
@click.argument("name")
@file_argument
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The .npz file of completed fields.")
@click.option("--steps", type=int, default=0, help="Reading steps.  [default: the model's own number]")
@click.option(
    "--known",
    type=click.Choice(["given", "nothing"]),
    default="given",
    show_default=True,
    help="Hold what cues with missing entries give, or nothing.",
)
@kept_option
@server_option
def query(  # noqa: PLR0913
    name: str, file: Path, output: Path, steps: int, known: str, kept: bool | None, server: str
) -> None:
    """Complete the cues of a file, where NaN and fields that are left out are missing."""
    with connect(server) as client:
        hold = None if known == "given" else False
        recall = client.memory(name).query(_read(file), known=hold, steps=steps, kept=kept)
        with output.open("wb") as target:
            np.savez(target, **{**recall.fields, **recall.texts})  # type: ignore[arg-type] # no field is allow_pickle
    _print_rows(
        energy_before=recall.energy_before,
        energy_after=recall.energy_after,
        familiarity=recall.delta_energy,
        page=recall.page,
        **_probability_of(recall),
    )
    click.echo(f"The completed patterns are in {output}")


@memory.command()
@click.argument("name")
@file_argument
@kept_option
@server_option
def recognize(name: str, file: Path, kept: bool | None, server: str) -> None:
    """Tell how familiar the patterns of a file are to the memory NAME: the lower, the more familiar.

    Where the model can tell, also the probability that each is stored.
    """
    with connect(server) as client:
        familiarity = client.memory(name).recognize(_read(file), kept=kept)
    _print_rows(
        energy=familiarity.energy,
        familiarity=familiarity.delta_energy,
        page=familiarity.page,
        **_probability_of(familiarity),
    )


def _probability_of(answer: attractor.Recall | attractor.Familiarity) -> dict[str, NDArray[np.float32]]:
    return {} if answer.probability is None else {"probability": answer.probability}


def _read(file: Path) -> attractor.Patterns:
    """Return the arrays of a file.

    Raises:
        InvalidRequest: it cannot be read, or is of another kind.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise attractor.InvalidRequest.of(str(file), f"cannot be read as .npy or .npz: {error}") from error


def _print_rows(**columns: NDArray[np.float32] | NDArray[np.uint32]) -> None:
    """Print one line for each pattern, under a line of names."""
    click.echo("\t".join(["pattern", *columns]))
    for number, row in enumerate(zip(*(np.atleast_1d(column) for column in columns.values()), strict=True)):
        click.echo("\t".join([str(number), *(f"{value:.6g}" for value in row)]))
