"""Alternatives to the engine: loops over memories, `vmap(grad)`, and another library's memories.

All of them do the arithmetic of the same reading and writing loops, save titans-pytorch, whose memories are read by
one pass through a network and written by one step.
"""

import shutil
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from attractor_server.energy.model import Model
from attractor_server.energy.networks.bilinear import values_of
from attractor_server.energy.networks.protocol import Tensors

Job = Callable[[], object]


def energy(slow: Tensors, w: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return E of one pattern x (d,) or of several (n, d), in one memory; the bilinear network's where there is a V."""
    f = torch.tanh(x @ slow["A"] + slow["a0"])
    v = values_of(slow["V"], x) if "V" in slow else f
    wells = ((v @ w) * f).sum(-1) + v @ b
    return (0.5 * slow["log_q"].exp() * x.square() + slow["qb"] * x).sum(-1) - wells


def loop_reads(model: Model, fast: Tensors, cues: Tensor, memories: int) -> Job:
    """Read one memory at a time, with a gradient by autograd at each step."""
    slow = model.parameters.slow

    def slope(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad(energy(slow, w, b, x).sum(), x)
        return gradient

    def job() -> None:
        for memory in range(memories):
            _descend(model, partial(slope, fast["W"][memory], fast["b"][memory]), cues[memory])

    return job


def vmap_reads(model: Model, fast: Tensors, cues: Tensor, *, compiled: bool) -> Job:
    """Read all memories at once; if `compiled`, with a loop compiled as a whole."""
    slow = model.parameters.slow
    slopes = vmap(vmap(grad(lambda x, w, b: energy(slow, w, b, x)), (0, None, None)))

    def descend(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return _descend(model, lambda x: slopes(x, w, b), x)

    run = torch.compile(descend, dynamic=False) if compiled else descend

    def job() -> None:
        with torch.no_grad():
            run(fast["W"], fast["b"], cues)

    return job


def loop_writes(model: Model, fast: Tensors, patterns: Tensor, memories: int) -> Job:
    """Write one memory at a time, each step's gradient by autograd through the slope at all its patterns."""
    parameters = model.parameters
    writer, slow, initial = parameters.writer, parameters.slow, parameters.initial

    def write(w: Tensor, b: Tensor, x: Tensor) -> None:
        for t in range(parameters.writing_steps):
            w, b, x = w.detach().requires_grad_(), b.detach().requires_grad_(), x.detach().requires_grad_()
            at = energy(slow, w, b, x)
            (slope,) = torch.autograd.grad(at.sum(), x, create_graph=True)
            objective = (writer["log_energy"][t].exp() * at).mean()
            objective = objective + (writer["log_alpha"][t].exp() * slope.square().sum(-1)).mean()
            distance = (w - initial["W"]).square().sum() + (b - initial["b"]).square().sum()
            objective = objective + writer["log_beta"][t].exp() * distance
            by_w, by_b = torch.autograd.grad(objective, (w, b))
            limit = writer["log_clip"].exp()
            w = w - writer["log_rate.W"][t].exp() * by_w * torch.rsqrt(1 + by_w.square().sum() / limit**2)
            b = b - writer["log_rate.b"][t].exp() * by_b * torch.rsqrt(1 + by_b.square().sum() / limit**2)

    def job() -> None:
        for memory in range(memories):
            write(fast["W"][memory], fast["b"][memory], patterns[memory])

    return job


def titans_reads(cues: Tensor, *, weights: int) -> Job | None:
    """Read one query from each of as many `NeuralMemory` states of about as many weights; None if not installed."""
    if (memory := _titans(cues, weights=weights, chunk=1)) is None:
        return None
    with torch.no_grad():
        state = {name: value[:, None].clone() for name, value in memory.init_weights(len(cues)).items()}

    def job() -> None:
        with torch.no_grad():
            memory.retrieve_memories(cues, state)

    return job


def titans_writes(patterns: Tensor, *, weights: int) -> Job | None:
    """Write each memory's patterns into a new state as one chunk, in one gradient step; None if not installed."""
    if (memory := _titans(patterns, weights=weights, chunk=patterns.shape[1])) is None:
        return None

    def job() -> None:
        with torch.no_grad():
            memory.store_memories(patterns)

    return job


def _titans(x: Tensor, *, weights: int, chunk: int) -> Any | None:  # noqa: ANN401 - it is untyped
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from titans_pytorch import MemoryMLP, NeuralMemory  # noqa: PLC0415 - an extra, which may not be there
    except ImportError:
        return None
    entries = x.shape[-1]
    network = MemoryMLP(entries, depth=2, expansion_factor=(weights // (2 * entries) + 0.5) / entries)
    return NeuralMemory(dim=entries, chunk_size=chunk, model=network, per_head_learned_parameters=False).to(x.device)


def can_compile() -> bool:
    """Return whether there is a compiler."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def _descend(model: Model, slope: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    reader = model.parameters.reader
    step, momentum = reader["log_step"].exp(), reader["momentum_logit"].sigmoid()
    velocity = torch.zeros_like(x)
    for k in range(model.steps):
        gradient = slope((x + momentum[k] * velocity).detach())
        gradient = gradient * torch.rsqrt(1 + gradient.square().mean(-1, keepdim=True))
        velocity = momentum[k] * velocity - step[k] * gradient
        x = x + velocity
    return x
