"""The command `attractor adapt`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attractor_server.errors import ServerError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor


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
def adapt(model: str, samples: Path, output: Path, name: str | None) -> None:
    """Fit a vector MODEL to embeddings of another source, within seconds and without training.

    MODEL is a file, or the name of a model that ships. SAMPLES is a NumPy file (.npy) of some thousand embeddings,
    (n, entries), as they will be stored.
    """
    try:
        from attractor_server.energy.model import SUFFIX, save_model  # noqa: PLC0415 - loads torch
        from attractor_server.training.adapting import adapted  # noqa: PLC0415
        from attractor_server.training.quality.opened import open_model  # noqa: PLC0415

        opened = open_model(model)
        made = adapted(opened, _read(samples), name=name or f"{opened.name}-adapted")
        made = save_model(made, output / f"{made.name}{SUFFIX}")
        click.echo(f"{made.name} {made.digest} is in {output}")
    except ServerError as error:
        click.echo(f"attractor: {error.message}", err=True)
        sys.exit(2)


def _read(path: Path) -> "Tensor":
    import numpy as np  # noqa: PLC0415 - comes with torch
    import torch  # noqa: PLC0415

    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SettingsError(f"samples: {path} cannot be read: {error}; expected a NumPy file (.npy)") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        seen = values.dtype if isinstance(values, np.ndarray) else "several arrays"
        raise SettingsError(f"samples: saw {seen} in {path}; expected one array of numbers")
    return torch.from_numpy(values.astype(np.float32))
