"""Packed fast weights of many pages, stacked on one device, and their bytes on the way to a store and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes: TypeAlias = NDArray[np.uint8]

PageBytes: TypeAlias = Sequence[memoryview]
"""A page as bytes: the memory of each of its tensors, in the order of their names"""


class StackedWeights:
    """Tensors (places, *shape), allocated once."""

    def __init__(self, first: Mapping[str, Tensor], places: int) -> None:
        """Allocate places; `first` is what stands at place 0, each (1, *shape)."""
        self.device = next(iter(first.values())).device
        # The system backs places with memory as they are first written.
        self.tensors = {
            name: torch.empty((places, *tensor.shape[1:]), dtype=tensor.dtype, device=self.device)
            for name, tensor in sorted(first.items())
        }
        """By name, their order that of an image"""
        self.put(self.column([0]), first)
        on_host = self.device.type == "cpu"
        self._matrices = [_bytes_of(tensor) for tensor in self.tensors.values()] if on_host else None

    def column(self, numbers: Sequence[int]) -> Tensor:
        """Return the numbers on the device, int64."""
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def gather(self, places: Tensor) -> dict[str, Tensor]:  # (pages,) int64
        """Copy the weights at these places, each (pages, *shape)."""
        return {name: tensor.index_select(0, places) for name, tensor in self.tensors.items()}

    def put(self, places: Tensor, packed: Mapping[str, Tensor]) -> None:  # (pages,) int64, each (pages, *shape)
        """Overwrite these places, which must differ."""
        for name, tensor in self.tensors.items():
            tensor.index_copy_(0, places, packed[name])

    def clear(self, place: int) -> None:
        """Clear what stood there."""
        for tensor in self.tensors.values():
            tensor[place].zero_()

    def fetch(self, places: Sequence[int]) -> Sequence[PageBytes]:
        """Return the bytes at these places, by one copy a tensor from the device; on the host they are no copies."""
        if self._matrices is not None:
            return [[matrix[place].data for matrix in self._matrices] for place in places]
        return _rows([_bytes_of(tensor.cpu()) for tensor in self.gather(self.column(places)).values()], len(places))

    def receive(self, places: Sequence[int]) -> tuple[Sequence[PageBytes], Callable[[], None]]:
        """Bytes to be filled for these places, and what puts all of them there then, by one copy a tensor."""
        if self._matrices is not None:
            return self.fetch(places), _pass
        pinned = self.device.type == "cuda"
        staged = {
            name: torch.empty((len(places), *tensor.shape[1:]), dtype=tensor.dtype, pin_memory=pinned)
            for name, tensor in self.tensors.items()
        }
        images = _rows([_bytes_of(tensor) for tensor in staged.values()], len(places))
        return images, lambda: self.put(self.column(places), {n: t.to(self.device) for n, t in staged.items()})


def _bytes_of(tensor: Tensor) -> Bytes:
    """Return the memory of a host tensor (rows, …) as (rows, bytes)."""
    matrix: Bytes = tensor.view(len(tensor), -1).view(torch.uint8).numpy()
    return matrix


def _rows(matrices: Sequence[Bytes], count: int) -> Sequence[PageBytes]:
    return [[matrix[row].data for matrix in matrices] for row in range(count)]


def _pass() -> None:
    """Do nothing."""
