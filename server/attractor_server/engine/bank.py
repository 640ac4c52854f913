"""The bank: the fast weights of all memories of one model, stacked on one device."""

import torch
from torch import Tensor

from attractor_server.errors import BankFull

INITIAL = 0
"""Place of the initial fast weights, which every memory reads from until its first store."""


class Bank:
    """Fast weights of many memories, allocated once. Owns its tensors; hands out copies."""

    def __init__(self, initial: dict[str, Tensor], *, limit_bytes: int) -> None:
        page_bytes = sum(tensor.nbytes for tensor in initial.values())
        self.capacity = max(1, limit_bytes // page_bytes)
        # The system backs these pages with memory as they are first written.
        self._weights = {
            name: torch.empty((self.capacity + 1, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
            for name, tensor in initial.items()
        }
        for name, tensor in initial.items():
            self._weights[name][INITIAL] = tensor
        self._free = list(range(self.capacity, INITIAL, -1))

    def take(self) -> int:
        """A free place.

        Raises:
            BankFull: there is none.
        """
        if not self._free:
            raise BankFull(
                f"the bank holds {self.capacity} memories of this model and is full: "
                "delete some, add shards, or raise --bank-memory-mib"
            )
        return self._free.pop()

    def release(self, place: int) -> None:
        """Makes a place free again and forgets what stood there."""
        for weights in self._weights.values():
            weights[place].zero_()
        self._free.append(place)

    def gather(self, places: Tensor) -> dict[str, Tensor]:  # places (memories,) int64
        """Copies of the fast weights at these places, each (memories, *shape)."""
        return {name: weights.index_select(0, places) for name, weights in self._weights.items()}

    def publish(self, places: Tensor, fast: dict[str, Tensor]) -> None:  # places (memories,) int64
        """Puts new fast weights, each (memories, *shape), in these places, which must differ."""
        for name, weights in self._weights.items():
            weights.index_copy_(0, places, fast[name].to(weights.dtype))
