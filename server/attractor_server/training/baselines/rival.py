"""Interface of every baseline."""

from typing import Protocol

import torch
from torch import Tensor


class Rival(Protocol):
    """A memory made by other means, filled and read in one call."""

    @property
    def name(self) -> str:
        """Name in the tables."""

    def bytes_per_memory(self, n: int, d: int) -> int:
        """Return the bytes of a memory of n items (d,), without those that all memories share."""

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        """Return the answers of memories with the items (memories, n, d) to the cues (memories, m, d).

        The mask `known` (memories, m, d), bool, marks the right entries of the cues, for rivals that can use it.
        """


def keep_known(x: Tensor, cues: Tensor, known: Tensor | None) -> Tensor:
    """Return x with the cues' entries where these are known to be right."""
    return x if known is None else torch.where(known, cues, x)
