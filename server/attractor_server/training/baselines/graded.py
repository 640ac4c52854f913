"""Graded reads of Hopfield weights: tanh mean-field steps with a schedule of their own, fitted to training episodes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from attractor_server.training.baselines.hopfield import Rule, binary
from attractor_server.training.baselines.rival import keep_known


@dataclass(frozen=True, kw_only=True)
class Graded:
    """x ← (1 − δ)·x + δ·tanh(β·(Wx + s·diag(W)∘x) + c·cue), with β, s, c and δ (steps,) for each step."""

    beta: Tensor
    self_coupling: Tensor
    """Summand on the diagonal: 0 keeps it, −1 removes it, below that a unit works against itself."""
    cue_field: Tensor
    damping: Tensor
    """δ in (0, 1]: 1 replaces x."""

    @classmethod
    def with_constant_beta(cls, *, beta: float = 3.0, steps: int = 30, damping: float = 0.6) -> "Graded":
        """Return the textbook's schedule: one β, no self-couplings, the cue as the start only."""
        full = torch.full((4, steps), 1.0)
        return cls(beta=beta * full[0], self_coupling=-full[1], cue_field=0 * full[2], damping=damping * full[3])

    @classmethod
    def with_annealed_beta(
        cls, *, first: float = 1.0, last: float = 3.0, steps: int = 20, damping: float = 0.7
    ) -> "Graded":
        """Return a schedule whose β goes from the first to the last along a geometric series."""
        beta = torch.linspace(0.0, 1.0, steps).mul(torch.tensor(last / first).log()).exp() * first
        return replace(cls.with_constant_beta(steps=steps, damping=damping), beta=beta)

    def read(self, weights: Tensor, cues: Tensor, known: Tensor | None) -> Tensor:
        """Return the signs of the last step's fields (memories, m, d)."""
        return keep_known(binary(self.fields(weights, cues, known)), cues, known)

    def fields(self, weights: Tensor, cues: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the arguments of the last step's tanh (memories, m, d): the network's half log odds of +1."""
        own = weights.diagonal(dim1=-2, dim2=-1)[:, None]
        x = logits = cues
        for beta, s, c, damping in zip(self.beta, self.self_coupling, self.cue_field, self.damping, strict=True):
            logits = beta * (x @ weights + s * own * x) + c * cues
            x = keep_known(x + damping * (logits.tanh() - x), cues, known)
        return logits


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Settings of a schedule's fit: gradient steps through all reading steps, on the patterns' log likelihood."""

    starts: Sequence[Graded] = field(
        default_factory=lambda: (Graded.with_constant_beta(steps=20), Graded.with_annealed_beta())
    )
    updates: int = 120
    rate: float = 0.05
    memories: int = 8
    """In a batch."""
    seed: int = 0


def tune(rule: Rule, items: Tensor, cues: Tensor, fit: Fit | None = None) -> Graded:
    """Return the best schedule on training episodes, items (memories, n, d) and a cue (memories, n, d) for each.

    The starts compete with the schedules fitted from them, on the same episodes: a schedule has too few numbers to
    overfit them.
    """
    fit = fit or Fit()
    weights = rule(items)
    candidates = [*fit.starts, *(_fit(start, weights, items, cues, fit) for start in fit.starts)]
    return min(candidates, key=lambda one: float((one.read(weights, cues, None) != items).float().mean()))


def _fit(start: Graded, weights: Tensor, items: Tensor, cues: Tensor, fit: Fit) -> Graded:
    generator = torch.Generator().manual_seed(fit.seed)
    raw = torch.stack(
        [start.beta.log(), start.self_coupling, start.cue_field, start.damping.clamp(0.02, 0.98).logit()]
    ).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=fit.rate)
    for update in range(fit.updates):
        optimizer.param_groups[0]["lr"] = fit.rate * min(1.0, 2 * (1 - update / fit.updates))
        chosen = torch.randint(len(items), (fit.memories,), generator=generator)
        logits = _schedule(raw).fields(weights[chosen], cues[chosen])
        optimizer.zero_grad()
        softplus(-2 * items[chosen] * logits).mean().backward()
        torch.nn.utils.clip_grad_norm_([raw], 1.0)
        optimizer.step()
    return _schedule(raw.detach())


def _schedule(raw: Tensor) -> Graded:
    beta, self_coupling, cue_field, damping = raw
    return Graded(beta=beta.exp(), self_coupling=self_coupling, cue_field=cue_field, damping=damping.sigmoid())
