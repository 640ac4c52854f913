"""The convolutional network: residual blocks over an image tell patterns apart, a bilinear head recalls (claim 10)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod, sqrt

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d

from attractor_server.energy.networks.heads import head_energy, head_shapes, head_start, start_lift
from attractor_server.energy.networks.protocol import Shapes, Start, Tensors, by_memory, divide_weights

KERNEL = (3, 3)


@dataclass(frozen=True, kw_only=True)
class Convolutional:
    """E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + tanh(c)H + a0).

    c are the activations of the image x·lift: a convolution of stride 2, then blocks c + conv(tanh(c)). Layers `lift`,
    `conv`, `block1`, …, `keys`, `values`, `bowl`, `head`.

    Raises:
        ValueError: an image without three dimensions, or a wrong writable set.
    """

    inputs: int
    """d, entries of a pattern"""
    image: tuple[int, ...]
    """(channels, height, width) of what the entries stand for"""
    channels: int
    """Of each activation"""
    blocks: int
    """Residual blocks above the first convolution"""
    keys: int
    """entries of k"""
    values: int
    """entries of v"""
    writable: tuple[str, ...] = ("head",)
    """Tensors or layers that are fast; the highest layer unless told otherwise (claim 8)"""

    def __post_init__(self) -> None:
        if len(self.image) != 3:
            raise ValueError(f"image {list(self.image)}; expected channels, height and width")
        _ = self.shapes

    @property
    def kind(self) -> str:
        """Its name among the networks."""
        return "convolutional"

    @property
    def config(self) -> Mapping[str, object]:
        """Settings that make it again."""
        sizes = {"channels": self.channels, "blocks": self.blocks, "keys": self.keys, "values": self.values}
        return {"inputs": self.inputs, "image": list(self.image), **sizes, "writable": list(self.writable)}

    @property
    def shapes(self) -> tuple[Shapes, Shapes]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""
        return divide_weights(self._shapes, self.writable)

    def start(self, start: Start) -> Tensors:
        """Start as the bilinear network does, over random kernels.

        Raises:
            ValueError: the model has other entries or values than `inputs` and `image`.
        """
        shapes = self._shapes
        kernels = {name: _kernel(shape, start.generator) for name, shape in shapes.items() if name.endswith(".kernel")}
        biases = {name: torch.zeros(shape) for name, shape in shapes.items() if name.endswith(".bias")}
        colours, height, width = self.image
        # Fields have the colours of a pixel together, a convolution has them apart.
        lift = start_lift(shapes["lift"], start).unflatten(1, (height, width, colours)).movedim(3, 1).flatten(1)
        return {"lift": lift, **kernels, **biases, **head_start(shapes, start)}

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d).

        Layers that all memories share see the patterns of all of them side by side.
        """
        if any(name.partition(".")[0] in ("lift", "conv", *self._blocks) for name in fast):
            return by_memory(lambda own, x: head_energy(own, x, self._below(own, x)), slow, fast, x)
        below = self._below(slow, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return by_memory(head_energy, slow, fast, x, below)

    @property
    def _shapes(self) -> Shapes:
        colours, height, width = self.image
        shapes: dict[str, tuple[int, ...]] = {"lift": (self.inputs, prod(self.image))}
        for layer, below in zip(("conv", *self._blocks), (colours, *(self.channels,) * self.blocks), strict=True):
            shapes |= {f"{layer}.kernel": (self.channels, below, *KERNEL), f"{layer}.bias": (self.channels,)}
        activations = self.channels * ceil(height / 2) * ceil(width / 2)
        return shapes | dict(
            head_shapes(inputs=self.inputs, below=activations, keys=self.keys, values=self.values),
        )

    @property
    def _blocks(self) -> tuple[str, ...]:
        return tuple(f"block{place}" for place in range(1, self.blocks + 1))

    def _below(self, weights: Tensors, x: Tensor) -> Tensor:
        """tanh(c), (n, activations), of x (n, d)."""
        image = (x @ weights["lift"]).unflatten(-1, self.image)  # (n, channels, height, width)
        c = conv2d(image, weights["conv.kernel"], weights["conv.bias"], stride=2, padding=1)
        for block in self._blocks:
            c = c + conv2d(torch.tanh(c), weights[f"{block}.kernel"], weights[f"{block}.bias"], padding=1)
        return torch.tanh(c).flatten(1)


def _kernel(shape: tuple[int, ...], generator: Generator) -> Tensor:
    weights = torch.randn(shape, generator=generator)
    return weights / sqrt(prod(shape[1:]))
