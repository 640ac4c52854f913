"""The recurrent network: gated layers over a sequence tell patterns apart, a bilinear head recalls them (claim 11).

The gates are written out, since torch's own recurrent layers have no second derivative under torch.func.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.heads import head_energy, head_shapes, head_start, scatter, start_lift
from attractor_server.energy.networks.protocol import Shapes, Start, Tensors, by_memory, divide_weights

DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """E = ½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + hH + a0).

    h are the states of two gated recurrent layers (GRU) over the frames x·lift, one from the first frame to the last
    and one back. Layers `lift`, `forward`, `backward`, `keys`, `values`, `bowl`, `head`.

    Raises:
        ValueError: no frames, or a wrong writable set.
    """

    inputs: int
    """d, entries of a pattern"""
    steps: int
    """Frames, or characters, of the sequence that the entries stand for"""
    width: int
    """Values of each"""
    hidden: int
    """Entries of a state, in each direction"""
    keys: int
    """entries of k"""
    values: int
    """entries of v"""
    writable: tuple[str, ...] = ("head",)
    """Tensors or layers that are fast; the highest layer unless told otherwise (claim 8)"""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}; expected one frame or more")
        _ = self.shapes

    @property
    def kind(self) -> str:
        """Its name among the networks."""
        return "recurrent"

    @property
    def config(self) -> Mapping[str, object]:
        """Settings that make it again."""
        sequence = {"steps": self.steps, "width": self.width, "hidden": self.hidden}
        head = {"keys": self.keys, "values": self.values}
        return {"inputs": self.inputs, **sequence, **head, "writable": list(self.writable)}

    @property
    def shapes(self) -> tuple[Shapes, Shapes]:
        """Shapes of the slow tensors, and of the fast tensors of one memory."""
        return divide_weights(self._shapes, self.writable)

    def start(self, start: Start) -> Tensors:
        """Start as the bilinear network does, over random recurrent layers.

        Raises:
            ValueError: the model has other entries or values than `inputs`, `steps` and `width`.
        """
        shapes = self._shapes
        gates = {
            name: torch.zeros(shape) if name.endswith(".bias") else scatter(shape, start.generator)
            for name, shape in shapes.items()
            if name.startswith(DIRECTIONS)
        }
        return {"lift": start_lift(shapes["lift"], start), **gates, **head_start(shapes, start)}

    def energy(self, slow: Tensors, fast: Tensors, x: Tensor) -> Tensor:
        """E(x; θ), (memories, patterns), of x (memories, patterns, d)."""
        return by_memory(self._energy, slow, fast, x)

    @property
    def _shapes(self) -> Shapes:
        shapes: dict[str, tuple[int, ...]] = {"lift": (self.inputs, self.steps * self.width)}
        gates = 3 * self.hidden
        for layer in DIRECTIONS:
            shapes |= {f"{layer}.input": (self.width, gates), f"{layer}.state": (self.hidden, gates)}
            shapes |= {f"{layer}.bias": (gates,)}
        below = self.steps * len(DIRECTIONS) * self.hidden
        return shapes | dict(head_shapes(inputs=self.inputs, below=below, keys=self.keys, values=self.values))

    def _energy(self, weights: Tensors, x: Tensor) -> Tensor:
        frames = (x @ weights["lift"]).unflatten(-1, (self.steps, self.width))
        return head_energy(weights, x, _states(weights, frames).flatten(1))


def _states(weights: Tensors, frames: Tensor) -> Tensor:
    """Compute states (n, steps, 2, hidden) after each frame of (n, steps, width), in the order of each direction.

    Reset r, update z = σ(·), candidate c = tanh(xI + r ⊙ hS + bias), h ← c + z ⊙ (h − c). Both directions go at once.
    """
    kernel, recurrence, bias = (
        torch.stack([weights[f"{direction}.{name}"] for direction in DIRECTIONS]) for name in ("input", "state", "bias")
    )
    both = torch.stack([frames, frames.flip(1)])  # (2, n, steps, width)
    given = (both.flatten(1, 2) @ kernel + bias[:, None]).unflatten(1, frames.shape[:2])
    h = torch.zeros_like(given[:, :, 0, : recurrence.shape[1]])
    states = []
    for frame in given.unbind(2):
        h = _turn(frame, h, recurrence)
        states.append(h)
    return torch.stack(states).permute(2, 0, 1, 3)


def _turn(given: Tensor, h: Tensor, recurrence: Tensor) -> Tensor:
    """Compute the next states (2, n, hidden) from what the frames give (2, n, 3·hidden) and the states before."""
    hidden = h.shape[-1]
    remembered = h @ recurrence
    reset, update = (given + remembered)[..., : 2 * hidden].sigmoid().chunk(2, -1)
    candidate = torch.tanh(given[..., 2 * hidden :] + reset * remembered[..., 2 * hidden :])
    return candidate + update * (h - candidate)
