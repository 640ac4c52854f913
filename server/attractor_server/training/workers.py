"""Teams of workers that train a model: one process alone, or several that average meta-gradients after every step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, distributed


class Team(Protocol):
    """Workers that call the same methods in the same order, each with a tensor of the same shape."""

    @property
    def rank(self) -> int:
        """This worker's number, from 0; number 0 writes the files."""

    @property
    def size(self) -> int:
        """Number of workers."""

    def mean(self, tensor: Tensor) -> Tensor:
        """Average over all workers, entry by entry; not finite where it is not finite on any of them."""

    def agree(self, number: float) -> float:
        """Return the number that worker 0 has."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors (…) of all workers, by rank, (size, …)."""


@dataclass(frozen=True)
class Alone:
    """A team of one."""

    rank: int = 0
    size: int = 1

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

    def agree(self, number: float) -> float:
        """Return the number itself."""
        return number

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensor, (1, …)."""
        return tensor[None]


ALONE = Alone()


class Group:
    """The workers of torch's default process group, which must be there, and reduces tensors on this device."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.rank: int = distributed.get_rank()
        self.size: int = distributed.get_world_size()

    def mean(self, tensor: Tensor) -> Tensor:
        """Average over all workers, with the same bits on each."""
        total = tensor.to(self.device, copy=True)
        distributed.all_reduce(total)
        return (total / self.size).to(tensor.device)

    def agree(self, number: float) -> float:
        """Return the number that worker 0 has, to the last bit."""
        told = torch.tensor(number, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, src=0)
        return float(told)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all workers, by rank."""
        own = tensor.to(self.device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own)
        return torch.stack(parts).to(tensor.device)


def average_gradients(tensors: Iterable[Tensor], team: Team) -> None:
    """Replace the gradient of each tensor by its mean over the team.

    A loss depends on other tensors in other episodes. Where only some workers have a gradient, the others count as
    zero; where none has one, there is none afterwards, and the optimiser skips the tensor.
    """
    if team.size == 1:
        return
    members = list(tensors)
    own = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in members]
    present = own[0].new_tensor([tensor.grad is not None for tensor in members])
    *means, shares = team.mean(torch.cat([part.flatten() for part in (*own, present)])).split(
        [*(part.numel() for part in own), len(members)]
    )
    for tensor, mean, share in zip(members, means, shares.tolist(), strict=True):
        tensor.grad = mean.view_as(tensor) if share else None
