"""Random episodes: parameters that leave no mechanism idle, several memories, patterns to write and cues to read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from tests.support.network_cases import Case
from torch import Generator, Tensor

from attractor_server.energy import reference
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import Reading, read
from attractor_server.energy.writer import write

PRESENT = torch.tensor([[True, True, True], [False, True, False], [True, False, True], [False, False, True]])
STORED = torch.tensor([0, 5, 40, 16])
READING_STEPS, WRITING_STEPS = 3, 2
BEYOND = READING_STEPS + 2


@dataclass(frozen=True, kw_only=True)
class Episode:
    """What is written into memories that already hold something, and what is then read from them."""

    parameters: Parameters
    held: Tensors
    """What the fast weights differ by from the initial ones before the write, each (memories, *shape)"""
    patterns: Tensor
    cue: Tensor
    known: Tensor
    present: Tensor
    stored: Tensor

    @property
    def fast(self) -> Tensors:
        """Fast weights before the write."""
        return {name: self.parameters.initial[name] + value for name, value in self.held.items()}

    @property
    def leaves(self) -> Tensors:
        """All that the outcome may be differentiated by."""
        held = {f"held.{name}": value for name, value in self.held.items()}
        return {**self.parameters.flat(), **held, "patterns": self.patterns, "cue": self.cue}

    def at(self, leaves: Mapping[str, Tensor]) -> "Episode":
        """The same episode with these values in place of its leaves."""
        held = {name: leaves[f"held.{name}"] for name in self.held}
        parameters = Parameters.of(leaves)
        return replace(self, parameters=parameters, held=held, patterns=leaves["patterns"], cue=leaves["cue"])

    def tracked(self) -> "Episode":
        """The same episode with leaves of its own that gradients can be taken by."""
        return self.at({name: value.detach().clone().requires_grad_() for name, value in self.leaves.items()})

    def to(self, dtype: torch.dtype) -> "Episode":
        return self.at({name: value.to(dtype) for name, value in self.leaves.items()})

    def alone(self, memory: int) -> "Episode":
        """One of its memories by itself, with the patterns that are present and no others."""
        return replace(
            self,
            held={name: value[memory, None] for name, value in self.held.items()},
            patterns=self.patterns[memory, self.present[memory]][None],
            present=self.present[memory, self.present[memory]][None],
            stored=self.stored[memory, None],
            cue=self.cue[memory, None],
            known=self.known[memory, None],
        )

    def write(self, network: EnergyNetwork) -> Tensors:
        return write(network, self.parameters, self.fast, self.patterns, present=self.present, stored=self.stored)

    def read(self, network: EnergyNetwork, fast: Tensors) -> Reading:
        return read(network, self.parameters, fast, self.cue, known=self.known, steps=BEYOND, trajectory=True)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an episode led to."""

    fast: Tensors
    iterates: Tensor
    """(memories, steps + 1, cues, d)"""
    energies: Tensor
    """(memories, steps + 1, cues)"""
    delta: Tensor
    """(memories, cues)"""

    @property
    def parts(self) -> Tensors:
        return {**self.fast, "iterates": self.iterates, "energies": self.energies, "delta": self.delta}

    def loss(self) -> Tensor:
        """A scalar on which every entry of what was read has a say of its own."""
        read = torch.cat([self.iterates.flatten(), self.energies.flatten(), self.delta.flatten()])
        return read.dot(torch.linspace(0.5, 1.5, len(read), dtype=read.dtype).cos()) + read.square().mean()


def draw(case: Case, *, seed: int = 0, present: Tensor = PRESENT, stored: Tensor = STORED, cues: int = 2) -> Episode:
    """A random episode in float64."""
    generator = Generator().manual_seed(seed)
    slow, fast = case.network.shapes
    memories, places = present.shape

    def normal(*shape: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
        return mean + spread * torch.randn(shape, generator=generator, dtype=torch.float64)

    width = case.inputs**-0.5
    initial = {name: normal(*shape, spread=width) for name, shape in fast.items()}
    rates = {f"log_rate.{name}": normal(WRITING_STEPS, mean=-1.0, spread=0.3) for name in fast}
    conditioning = {name: normal(mean=0.3, spread=0.1) for name in ("rate_count", "rate_stored", "alpha_count")}
    means = {"log_energy": 0.2, "log_alpha": -1.0, "log_beta": -2.0}
    if case.curved:
        means["log_gamma"] = -1.5
    objective = {name: normal(WRITING_STEPS, mean=mean, spread=0.5) for name, mean in means.items()}
    parameters = Parameters(
        slow={name: normal(*shape, spread=width) for name, shape in slow.items()},
        initial=initial,
        reader={
            "log_step": normal(READING_STEPS, mean=-1.0, spread=0.3),
            "momentum_logit": normal(READING_STEPS),
        },
        writer={**rates, **objective, **conditioning, "log_clip": normal(mean=0.5, spread=0.1)},
    )
    return Episode(
        parameters=parameters,
        held={name: normal(memories, *shape, spread=0.5 * width) for name, shape in fast.items()},
        patterns=normal(memories, places, case.inputs),
        cue=normal(memories, cues, case.inputs),
        known=torch.rand(memories, cues, case.inputs, generator=generator) < 0.4,
        present=present,
        stored=stored,
    )


def outcome(network: EnergyNetwork, episode: Episode) -> Outcome:
    """By the loops."""
    fast = episode.write(network)
    reading = episode.read(network, fast)
    assert reading.iterates is not None
    assert reading.energies is not None
    iterates, energies = reading.iterates.transpose(0, 1), reading.energies.transpose(0, 1)
    return Outcome(fast=fast, iterates=iterates, energies=energies, delta=reading.delta_energy)


def expected(network: EnergyNetwork, episode: Episode) -> Outcome:
    """By the reference, which knows one memory and one pattern at a time."""
    parts = [_expected(network, episode, memory) for memory in range(len(episode.patterns))]
    return Outcome(
        fast={name: torch.stack([part.fast[name] for part in parts]) for name in episode.held},
        iterates=torch.stack([part.iterates for part in parts]),
        energies=torch.stack([part.energies for part in parts]),
        delta=torch.stack([part.delta for part in parts]),
    )


def _expected(network: EnergyNetwork, episode: Episode, memory: int) -> Outcome:
    parameters = episode.parameters
    patterns = [x for x, present in zip(episode.patterns[memory], episode.present[memory], strict=True) if present]
    before = {name: value[memory] for name, value in episode.fast.items()}
    fast = reference.write(network, parameters, before, patterns, stored=int(episode.stored[memory]))

    def energy(x: Tensor) -> Tensor:
        return reference.energy(network, parameters, fast, x)

    iterates, energies, delta = [], [], []
    for cue, known in zip(episode.cue[memory], episode.known[memory], strict=True):
        path = [reference.read(network, parameters, fast, cue, known=known, steps=k) for k in range(BEYOND + 1)]
        iterates.append(torch.stack(path))
        energies.append(torch.stack([energy(x) for x in path]))
        delta.append(energy(cue) - reference.energy(network, parameters, parameters.initial, cue))
    return Outcome(
        fast=fast,
        iterates=torch.stack(iterates, 1),
        energies=torch.stack(energies, 1),
        delta=torch.stack(delta),
    )


def gradients(result: Outcome, episode: Episode) -> Tensors:
    """Of the loss by each leaf of a tracked episode."""
    leaves = episode.leaves
    return dict(zip(leaves, torch.autograd.grad(result.loss(), list(leaves.values())), strict=True))


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative, in the norm of the whole tensor."""
    assert found.shape == wanted.shape
    found, wanted = found.detach(), wanted.detach()
    return float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted))


def errors(found: Tensors, wanted: Tensors) -> dict[str, float]:
    """Of each tensor."""
    return {name: error(found[name], wanted[name]) for name in wanted}
