"""What a closed form for serving is: what a network's energy, slope and writing share is computed once.

Forms lean on what writing and erasing do to a page, see `QuadraticForm`. Tests hold them to `energy/reference.py`.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.reader import Reading
from attractor_server.energy.transform import Hold
from attractor_server.engine.programs.schedule import WritingSchedule


class Look(Protocol):
    """The energy at patterns x (pages, patterns, d), as far as it has been computed."""

    def slope(self) -> Tensor:
        """∇ₓE, like x; the caller's own."""

    def energy(self) -> Tensor:
        """E(x; θ), (pages, patterns)."""

    def gap(self) -> Tensor:
        """E(x; θ) − E(x; θ₀), (pages, patterns)."""


class Ground(Protocol):
    """What patterns that are being written have in common through all steps."""

    def slopes(self, fast: Tensors, distance: float, initial: Tensors, weight: Tensor, terms: Terms) -> Tensors:
        """∇_θ of Σᵢ weightᵢ·(the terms of xᵢ) + ½·distance·‖θ − θ₀‖²; the caller's own."""


class Form(Protocol):
    """A model's energy, with all that does not depend on pages prepared."""

    def look(self, fast: Tensors, x: Tensor) -> Look:
        """The energy of each page at its patterns."""

    def ground(self, x: Tensor) -> Ground:
        """What to write x (pages, patterns, d) with."""


class Kernel(Protocol):
    """All steps of a reading in one go."""

    def takes(self, x: Tensor) -> bool:
        """Whether it fits patterns like these (pages, patterns, d)."""

    def read(self, fast: Tensors, x: Tensor, *, steps: int) -> Reading:
        """See `energy.reader.read`."""


@runtime_checkable
class InPlaceKernel(Kernel, Protocol):
    """Reads pages where they lie, and puts known values back after each step."""

    @property
    def in_order(self) -> bool:
        """Whether it goes through W as that lies in memory; if not, it wants W in the cache before, as a copy is."""

    def holds(self, hold: Hold) -> bool:
        """Whether it can do so with these."""

    def look_at(self, fast: Tensors, places: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """E(x; θ) and E(x; θ) − E(x; θ₀), (pages, patterns) each, in pages as of `read_at`."""

    def read_at(
        self, fast: Tensors, places: Tensor | None, x: Tensor, *, steps: int, hold: Hold | None = None
    ) -> Reading:
        """The same with page i at `places`[i], (pages,) int64, of each tensor (places, *shape); without places at i."""


class WritingKernel(Protocol):
    """All steps of a writing in one go."""

    def takes(self, x: Tensor) -> bool:
        """Whether it fits patterns like these (pages, patterns, d)."""

    def write(self, ground: Ground, fast: Tensors, schedule: WritingSchedule, *, out: Tensors) -> None:
        """Puts what the loop makes of the fast weights in `out`, each (pages, *shape)."""
