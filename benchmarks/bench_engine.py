"""How much faster is one batch across memories than the loop over memories that one would write instead?

256 memories with one query each, d = 384, 16k fast weights, one thread. The peers do the same arithmetic: a loop
with autograd, and the same batch through `torch.func` instead of the closed form.
"""

import torch
from _report import Result, rate, report
from torch import Tensor

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.reader import clip_pattern, descend
from attractor_server.energy.writer import write

MEMORIES, INPUTS, FEATURES, STEPS, PATTERNS = 256, 384, 128, 5, 32


class Generic:
    """The network without its closed form, so that the loops differentiate its energy."""

    def __init__(self, network: Quadratic) -> None:
        self.kind, self.config, self.shapes, self.energy = network.kind, network.config, network.shapes, network.energy


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Quadratic(inputs=INPUTS, features=FEATURES)
    parameters, patterns = random_parameters(), torch.randn(MEMORIES, PATTERNS, INPUTS)
    fast = written(network, parameters, patterns)
    cues = patterns[:, :1] + 0.3 * torch.randn(MEMORIES, 1, INPUTS)
    reads = rate(lambda: descend(network, parameters, fast, cues, steps=STEPS), MEMORIES)
    generic = rate(lambda: descend(Generic(network), parameters, fast, cues, steps=STEPS), MEMORIES)
    looped = rate(lambda: [read_one(network, parameters, fast, cues, memory) for memory in range(8)], 8)
    writes = rate(lambda: written(network, parameters, patterns[:64]), 64)
    one_by_one = rate(lambda: [written(Generic(network), parameters, patterns[m : m + 1]) for m in range(4)], 4)
    of_reads, of_writes = "reads of 256 memories, 1 query each", "writes of 32 patterns, 64 memories"
    report(
        [
            Result(name=of_reads, unit="queries/s", ours=reads, peer="loop with autograd", theirs=looped),
            Result(name=of_reads, unit="queries/s", ours=reads, peer="one batch, torch.func", theirs=generic),
            Result(name=of_writes, unit="memories/s", ours=writes, peer="loop with torch.func", theirs=one_by_one),
        ]
    )


@torch.no_grad()
def written(network: EnergyNetwork, parameters: Parameters, patterns: Tensor) -> dict[str, Tensor]:
    """Fast weights of empty memories after one write, each (memories, *shape); patterns (memories, patterns, d)."""
    memories, count, _ = patterns.shape
    present, stored = torch.ones(memories, count, dtype=torch.bool), torch.zeros(memories, dtype=torch.long)
    return write(network, parameters, parameters.memories(memories), patterns, present=present, stored=stored)


def read_one(network: Quadratic, parameters: Parameters, fast: dict[str, Tensor], cues: Tensor, memory: int) -> Tensor:
    """The loop that one would write: a memory at a time, a gradient by autograd at each step."""
    own = {name: tensor[memory : memory + 1] for name, tensor in fast.items()}
    x = cues[memory : memory + 1]
    velocity = torch.zeros_like(x)
    step, momentum = parameters.reader["log_step"].exp(), parameters.reader["momentum_logit"].sigmoid()
    for k in range(STEPS):
        ahead = (x + momentum[k] * velocity).requires_grad_()
        (gradient,) = torch.autograd.grad(network.energy(parameters.slow, own, ahead).sum(), ahead)
        velocity = momentum[k] * velocity - step[k] * clip_pattern(gradient)
        x = x + velocity
    return x


def random_parameters() -> Parameters:
    initial = {"W": torch.zeros(FEATURES, FEATURES), "b": torch.zeros(FEATURES)}
    slow = {
        "A": torch.randn(INPUTS, FEATURES) / INPUTS**0.5,
        "a0": torch.zeros(FEATURES),
        "log_q": torch.zeros(INPUTS),
        "qb": torch.zeros(INPUTS),
    }
    return Parameters(slow=slow, initial=initial, reader=initial_reader(STEPS), writer=initial_writer(2, initial))


if __name__ == "__main__":
    main()
