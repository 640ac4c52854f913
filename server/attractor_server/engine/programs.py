"""The programs that the engine runs over batches of pages: one place where the fastest way through a loop is chosen."""

from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading, read
from attractor_server.energy.transform import Hold, Pull
from attractor_server.energy.writer import write


def reading(  # noqa: PLR0913
    model: Model,
    fast: Tensors,  # each (pages, *shape)
    x: Tensor,  # (pages, patterns, d)
    *,
    hold: Hold | None = None,
    pull: Pull | None = None,
    steps: int = 0,
    trajectory: bool = False,
) -> Reading:
    """What the cues x lead to in `steps` steps of the reading loop (0: as many as were trained)."""
    return read(model.network, model.parameters, fast, x, hold=hold, pull=pull, steps=steps, trajectory=trajectory)


def writing(
    model: Model,
    fast: Tensors,  # each (pages, *shape)
    x: Tensor,  # (pages, patterns, d)
    *,
    present: Tensor,  # (pages, patterns) bool
    stored: Tensor,  # (pages,) patterns written before
) -> Tensors:
    """The fast weights after writing the patterns that are present, each (pages, *shape)."""
    return write(model.network, model.parameters, fast, x, present=present, stored=stored)


def energies(model: Model, fast: Tensors, x: Tensor) -> Tensor:
    """E(x; θ), (pages, patterns), of x (pages, patterns, d); each fast tensor is (pages, *shape)."""
    return model.network.energy(model.parameters.slow, fast, x)
