"""Forms that a bank keeps fast weights in: as they are, or their difference from the initial ones in fewer bits.

The difference is small where the weights are large, and zero in a page that nothing is written in: so the initial
weights come back exactly in every form. Frames stay as they are.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from attractor_server.energy.frame import parts_of_frames, weights_of

Tensors: TypeAlias = Mapping[str, Tensor]

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

INT8_LIMIT = 127


class WeightFormat(Protocol):
    """Packs the tensors of pages, each (pages, *shape), and unpacks them again; what is packed has as many rows."""

    def pack(self, fast: Tensors) -> dict[str, Tensor]:
        """Return what the bank keeps of the weights; never the given tensors' own memory if that may change later."""

    def unpack(self, packed: Tensors) -> dict[str, Tensor]:
        """Return the weights that computing goes on from."""


def form_of(precision: Precision, initial: Tensors) -> WeightFormat:
    """Return the form for pages that start from these weights, each (*shape)."""
    match precision:
        case "float32":
            return Float32()
        case "bfloat16":
            return BFloat16(weights_of(initial))
        case "int8":
            return Int8(weights_of(initial))


def page_bytes(precision: Precision, initial: Tensors) -> int:
    """Bytes of one page in that form."""
    packed = form_of(precision, initial).pack({name: tensor[None] for name, tensor in initial.items()})
    return sum(tensor.nbytes for tensor in packed.values())


class Float32:
    """Bit for bit."""

    def pack(self, fast: Tensors) -> dict[str, Tensor]:
        """Return the weights themselves."""
        return dict(fast)

    def unpack(self, packed: Tensors) -> dict[str, Tensor]:
        """Return the weights themselves."""
        return dict(packed)


class BFloat16:
    """Differences as bfloat16: half the bytes, eight bits of precision."""

    def __init__(self, initial: Tensors) -> None:
        self._initial = initial

    def pack(self, fast: Tensors) -> dict[str, Tensor]:
        """Return the differences, rounded to the nearest."""
        return parts_of_frames(fast) | {
            name: (tensor - self._initial[name]).to(torch.bfloat16) for name, tensor in weights_of(fast).items()
        }

    def unpack(self, packed: Tensors) -> dict[str, Tensor]:
        """Add initial weights and differences, as float32."""
        return parts_of_frames(packed) | {
            name: self._initial[name] + tensor for name, tensor in weights_of(packed).items()
        }


class Int8:
    """Differences as int8, in steps of 1/127 of the largest one in that page and tensor."""

    def __init__(self, initial: Tensors) -> None:
        self._initial = initial

    def pack(self, fast: Tensors) -> dict[str, Tensor]:
        """Return numbers of steps (pages, *shape), rounded to the nearest, and the size of a step (pages,)."""
        packed = parts_of_frames(fast)
        for name, tensor in weights_of(fast).items():
            difference = tensor - self._initial[name]
            step = difference.flatten(1).abs().amax(1) / INT8_LIMIT
            counts = difference / _beside(step.clamp_min(torch.finfo(step.dtype).tiny), difference)
            packed[name], packed[_step(name)] = counts.round_().to(torch.int8), step
        return packed

    def unpack(self, packed: Tensors) -> dict[str, Tensor]:
        """Add initial weights and differences, as float32."""
        return parts_of_frames(packed) | {
            name: torch.addcmul(initial, packed[name].to(initial.dtype), _beside(packed[_step(name)], packed[name]))
            for name, initial in self._initial.items()
        }


def _step(name: str) -> str:
    return f"{name}.step"


def _beside(steps: Tensor, tensor: Tensor) -> Tensor:
    """One number a page, with as many dimensions as the tensor has."""
    return steps.view(-1, *(1,) * (tensor.ndim - 1))
