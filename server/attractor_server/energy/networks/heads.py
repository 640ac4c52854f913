"""Heads of the deep networks: the bilinear energy of values and of keys that also take what lies below."""

import math

import torch
from torch import Generator, Tensor

from attractor_server.energy.networks.protocol import Shapes, Start, Tensors

WHISPER = 0.1
"""How loud what lies below is in the keys at the start: a network that hears nothing else never learns to recall"""


def head_shapes(*, inputs: int, below: int, keys: int, values: int) -> Shapes:
    """Return the shapes of the layers `keys`, `values`, `bowl` and `head`, over so many activations `below`."""
    return {
        "keys.A": (inputs, keys),
        "keys.H": (below, keys),
        "keys.a0": (keys,),
        "values.V": (inputs, values),
        "bowl.log_q": (inputs,),
        "bowl.qb": (inputs,),
        "head.W": (values, keys),
        "head.b": (values,),
    }


def head_start(shapes: Shapes, start: Start) -> Tensors:
    """Start as the bilinear network does, keys and values along the leading entries, with a little from below."""
    zeros = {name: torch.zeros(shapes[name]) for name in ("keys.a0", "bowl.log_q", "bowl.qb", "head.W", "head.b")}
    return {
        "keys.A": torch.eye(*shapes["keys.A"]) / start.deviation[:, None].clamp(min=1e-6),
        "keys.H": WHISPER * scatter(shapes["keys.H"], start.generator),
        "values.V": torch.eye(*shapes["values.V"]),
        **zeros,
    }


def start_lift(shape: tuple[int, ...], start: Start) -> Tensor:
    """Start the lift of this shape as the linear map back to scaled values.

    Raises:
        ValueError: the model has other entries or values than the network was made for.
    """
    if tuple(start.lift.shape) != shape:
        raise ValueError(f"(entries, values) are {tuple(start.lift.shape)}; the network was made for {shape}")
    return start.lift.clone()


def scatter(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Random weights (inputs, outputs) that keep the deviation of what they are given."""
    weights = torch.randn(shape, generator=generator)
    return weights / math.sqrt(shape[0])


def head_energy(weights: Tensors, x: Tensor, below: Tensor) -> Tensor:
    """½Σqx² + x·qb − vᵀWk − b·v with v = xV and k = tanh(xA + below·H + a0), (n,), of x (n, d), below (n, ·)."""
    k = torch.tanh(x @ weights["keys.A"] + below @ weights["keys.H"] + weights["keys.a0"])
    recalled = k @ weights["head.W"].mT + weights["head.b"]
    return bowl(weights, x) - (recalled * (x @ weights["values.V"])).sum(-1)


def bowl(weights: Tensors, x: Tensor) -> Tensor:
    """½Σqx² + x·qb, (n,), of x (n, d): what keeps any reading from running away."""
    return (0.5 * weights["bowl.log_q"].exp() * x.square() + weights["bowl.qb"] * x).sum(-1)
