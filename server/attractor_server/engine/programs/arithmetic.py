"""Elementwise steps that the closed forms share, with few passes over memory."""

import torch
from torch import Tensor


def squashed(doubled: Tensor) -> Tensor:
    """tanh z of 2z, in its place, as 2σ(2z) − 1: on a CPU that takes half of tanh's time."""
    return doubled.sigmoid_().mul_(2).sub_(1)


def bend(f: Tensor) -> Tensor:
    """tanh′ where tanh is f: 1 − f²."""
    return torch.addcmul(f.new_ones(()), f, f, value=-1)


def bowl(q: Tensor, qb: Tensor, x: Tensor) -> Tensor:
    """½Σqx² + x·qb, (pages, patterns), of x (pages, patterns, d)."""
    return torch.addcmul(qb + qb, q, x).mul_(x).sum(-1).mul_(0.5)
