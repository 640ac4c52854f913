"""Modern Hopfield networks: they keep every item, and read by softmax."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from attractor_server.training.baselines.rival import keep_known
from attractor_server.training.baselines.slots import compute_squared_distances

BETAS = tuple(2.0**k for k in range(-6, 9))
STEPS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class ModernHopfield:
    """x ← softmax(−β·‖x − item‖² / 2) · items (Ramsauer et al. 2021, where items of one norm make it β·⟨x, item⟩).

    The distance in place of the product keeps long items from drawing every cue.
    """

    beta: float
    """In inverse squared units of the items."""
    steps: int = 1

    @classmethod
    def tune(
        cls, items: Tensor, cues: Tensor, *, known: Tensor | None = None, betas: Sequence[float] = BETAS
    ) -> "ModernHopfield":
        """Return the β and the number of steps with the least squared error on training episodes.

        The episodes are items (memories, n, d) and a cue for each (memories, n, d); `betas` are taken relative to the
        inverse of the items' mean squared entry.
        """
        unit = float(items.square().mean())
        rivals = [cls(beta=beta / unit, steps=steps) for beta, steps in product(betas, STEPS)]
        return min(rivals, key=lambda one: float((one.recall(items, cues, known=known) - items).square().mean()))

    @property
    def name(self) -> str:
        """Name in the tables."""
        return "modern Hopfield"

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return the bytes of all items, float32."""
        return 4 * n * d

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return weighted means of the items, (memories, m, d).

        The first step compares on known entries only, and all steps clamp them.
        """
        mask = known
        x = cues
        for _ in range(self.steps):
            weights = torch.softmax(-self.beta / 2 * compute_squared_distances(x, items, mask), -1)
            x = keep_known(weights @ items, cues, known)
            mask = None
        return x
