"""Fit a posterior over kept patterns to episodes: which pattern a cue is of, or none."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.posterior import AGREEMENTS, CASES, SLIGHT, Evidence, Posterior
from attractor_server.training.copies import draw_observed
from attractor_server.training.datasets import Source
from attractor_server.training.datasets.alike import Alike
from attractor_server.training.distortions import Cues
from attractor_server.training.kept import find_evidence
from attractor_server.training.mixture import mixture_of
from attractor_server.training.recipe import CueTable, DistortionTable, Recipe
from attractor_server.training.validation import (
    ALIKE_SHARE,
    CENTRES,
    Task,
    Trial,
    draw_trial,
    recall,
    write_memories,
)

MEMORIES, CUES = 8, 12
"""Memories of an episode, and the most cues of each"""
COPIES, COPIED = (4, 8, 16), ("noise", "flips")
"""Noisy copies of a thing in memories of copies, and the kinds of cue that copies may be: those that leave no gaps"""
SEED, HELD_OUT_SEED = 300, 400
ITERATIONS = 150
ENOUGH = 1e-7
"""Change of the loss by which a fit is at its end"""
LEVEL = 10.0
"""Unit of the score of an image that was moved or covered and is otherwise as it was kept"""
START = {"moved": 0.0, "covered": 4.0}
"""Where weights of cases start, before the softplus: from less, some fits stop where what is covered has no weight"""
PENALTY = 1e-3
"""Of the mean square of the weights: episodes that are told apart without error would make them infinite"""
TOLERANCE = 1.01
"""How much worse the cross-entropy on validation data may get by leaving an agreement out"""
LEAST = 1e-9


@dataclass(frozen=True)
class Episodes:
    """Evidence of cues of kept patterns, the i-th of the i-th, and of cues of others."""

    stored: Evidence
    unseen: Evidence
    copies: int = 1
    """Kept patterns that are copies of one thing, neighbours; each of them is a right answer"""
    count: int = 1
    """Episodes that these are, joined"""


def fit_posterior(model: Model, training: Source, held_out: Source, recipe: Recipe) -> Posterior:
    """Fit to episodes of training data, with the agreements that validation data ask for.

    Episodes are of all kinds of cues of the recipe, of whole patterns, and of the mixture that nobody is told of; with
    half the rated number of patterns, that number and twice it; where vectors have frames, also of vectors that are
    alike; and, where cues are noisy, of memories of noisy copies.
    """
    ours, theirs = (
        list(_draw_episodes(model, source, recipe, seed))
        for source, seed in ((training, SEED), (held_out, HELD_OUT_SEED))
    )
    units = _Units.of(ours)
    numbers = _minimise(ours, units, units.start, ITERATIONS)
    if units.cases is not None:
        level = _measure_level(units.posterior(*numbers), ours) / LEVEL
        cases = units.cases.new_tensor([[START[name], level] for name in CASES])
        numbers = _minimise(ours, units, [*numbers, cases], ITERATIONS)
    best = units.posterior(*numbers)
    least = _mean_loss(best, theirs)
    for _ in range(len(AGREEMENTS) - 1):
        units = units.without(_find_least(best, units))
        numbers = _minimise(ours, units, numbers, ITERATIONS // 2)
        tried = units.posterior(*numbers)
        if (loss := _mean_loss(tried, theirs)) > TOLERANCE * least:
            break
        best, least = tried, min(least, loss)
    return best.to(torch.device("cpu"))


def _draw_episodes(model: Model, source: Source, recipe: Recipe, seed: int) -> Iterator[Episodes]:
    framed = model.has_metric
    sources = [source, *(Alike(source, ALIKE_SHARE, centres) for centres in CENTRES)] if framed else [source]
    counts = sorted({max(1, recipe.capacity // 2), recipe.capacity, 2 * recipe.capacity})
    memories = MEMORIES // 2 if framed else MEMORIES
    for (number, one), count in product(enumerate(sources), counts):
        for place, cue in enumerate(kinds_of_cues(source, recipe)):
            drawn = seed + 100 * number + 10 * place + count
            task = Task(data=recipe.data, cues=[cue], count=count, memories=memories, seed=drawn)
            trial = draw_trial(one, task)
            if trial.patterns.shape != trial.unseen.values.shape:
                continue  # not so many patterns there
            yield _rehearse(model, trial)
            if one is source and count == recipe.capacity and cue.label in COPIED:
                for copies in (copies for copies in COPIES if count % copies == 0):
                    yield _rehearse(model, draw_observed(one, task, copies).trial, copies)


def _rehearse(model: Model, trial: Trial, copies: int = 1) -> Episodes:
    fast = write_memories(model, trial.patterns, model.write_chunk, framed=model.has_metric)
    stored, unseen = (_compare(model, fast, trial.patterns, cues) for cues in (trial.cues, trial.unseen))
    return Episodes(stored, unseen, copies)


def _compare(model: Model, fast: Tensors, kept: Tensor, cues: Cues) -> Evidence:
    some = Cues(cues.values[:, :CUES], cues.known[:, :CUES])
    return find_evidence(model, fast, kept, some, recall(model, fast, some))


def kinds_of_cues(source: Source, recipe: Recipe) -> Sequence[CueTable]:
    """Return the recipe's kinds of cues, whole patterns, and those of the mixture that the recipe has not.

    What a kind of cue lacks a field of, another wording lacks as well.
    """
    cues = list(recipe.cues)
    if "clean" not in [cue.kind for cue in cues]:
        cues.append(CueTable(kind="clean"))
    gone = [DistortionTable(kind="field", field=cue.field) for cue in recipe.cues if cue.kind == "field"]
    for cue in mixture_of(source):
        mixed = cue.model_copy(update={"then": [*cue.then, *gone]}) if cue.kind == "drift" else cue
        if not any(one.label == mixed.label and one.told < 1 for one in cues):
            cues.append(mixed)
    return cues


@dataclass(frozen=True)
class _Units:
    """Units in which all evidence varies by 1."""

    factor: Tensor
    """(len(AGREEMENTS),), 0 where one is not used"""
    divisor: Tensor
    """(len(NONE),)"""
    cases: Tensor | None
    """(len(CASES),): of images that may have been moved or covered"""

    @classmethod
    def of(cls, episodes: Sequence[Episodes]) -> "_Units":
        spread = torch.stack([one.stored.agreements.flatten(0, 2).std(0) for one in episodes]).mean(0).nan_to_num()
        varied = torch.cat([each.none.flatten(0, 1) for one in episodes for each in (one.stored, one.unseen)])
        deviation = varied.std(0)
        deviation[0] = 1.0
        cases = [one.stored.cases.flatten(0, 2).std(0) for one in episodes if one.stored.cases is not None]
        factor = (spread > LEAST) / spread.clamp(min=LEAST)
        return cls(factor, deviation, 1 / torch.stack(cases).mean(0).clamp(min=LEAST) if cases else None)

    @property
    def start(self) -> tuple[Tensor, ...]:
        """Numbers to start from, of images in their place; before the softplus where they may not be negative."""
        return torch.zeros_like(self.factor), torch.zeros_like(self.divisor)

    def without(self, agreement: int) -> "_Units":
        """Return units by which one agreement less is used."""
        factor = self.factor.clone()
        factor[agreement] = 0
        return replace(self, factor=factor)

    def posterior(self, raw: Tensor, none: Tensor, cases: Tensor | None = None) -> Posterior:
        """Return the posterior of these numbers."""
        steady = torch.where(self.divisor > LEAST, none / self.divisor.clamp(min=LEAST), 0.0)
        if self.cases is not None and cases is not None:
            weights = softplus(cases[:, 0]) * self.cases
            cases = torch.stack([weights, LEVEL * cases[:, 1] + weights * math.log(SLIGHT)], 1)
        return Posterior(weights=softplus(raw) * self.factor, none=steady, cases=cases)


def _minimise(
    episodes: Sequence[Episodes], units: _Units, start: Sequence[Tensor], iterations: int
) -> Sequence[Tensor]:
    """Minimise the mean cross-entropy of all episodes by L-BFGS."""
    numbers = [part.clone().requires_grad_() for part in start]
    optimiser = torch.optim.LBFGS(
        numbers, max_iter=iterations, tolerance_change=ENOUGH, history_size=20, line_search_fn="strong_wolfe"
    )
    joined = _join_alike(episodes)

    def step() -> float:
        optimiser.zero_grad()
        penalty = softplus(numbers[0]).square().mean() + sum(part.square().mean() for part in numbers[1:])
        loss = _loss(units.posterior(*numbers), joined) + PENALTY * penalty
        loss.backward()
        return float(loss.detach())

    optimiser.step(step)
    return [part.detach() for part in numbers]


def _measure_level(posterior: Posterior, episodes: Sequence[Episodes]) -> float:
    """Return the mean score of the patterns that cues are of."""
    scores = [posterior.scores(one.stored).diagonal(dim1=-2, dim2=-1).mean() for one in episodes]
    return float(torch.stack(scores).mean())


def _loss(posterior: Posterior, episodes: Sequence[Episodes]) -> Tensor:
    losses = []
    for one in episodes:
        scores = _join_copies(posterior.scores(one.stored), one.copies)
        right = torch.arange(one.stored.none.shape[1], device=scores.device) // one.copies
        losses.append(one.count * cross_entropy(scores.flatten(0, 1), right.repeat(len(scores))))
        scores = posterior.scores(one.unseen)
        none = torch.full(scores.shape[:2], scores.shape[-1] - 1, device=scores.device)
        losses.append(one.count * cross_entropy(scores.flatten(0, 1), none.flatten()))
    return torch.stack(losses).sum() / (2 * sum(one.count for one in episodes))


def _join_alike(episodes: Sequence[Episodes]) -> Sequence[Episodes]:
    """Return episodes with those of the same sizes joined: fewer, larger products."""
    groups: dict[object, list[Episodes]] = defaultdict(list)
    for one in episodes:
        groups[one.stored.agreements.shape[1:], one.copies].append(one)
    return [
        replace(
            some[0],
            stored=_join([one.stored for one in some]),
            unseen=_join([one.unseen for one in some]),
            count=sum(one.count for one in some),
        )
        for some in groups.values()
    ]


def _join(evidence: Sequence[Evidence]) -> Evidence:
    cases = [one.cases for one in evidence if one.cases is not None]
    return Evidence(
        torch.cat([one.agreements for one in evidence]),
        torch.cat([one.none for one in evidence]),
        torch.cat(cases) if cases else None,
    )


def _join_copies(scores: Tensor, copies: int) -> Tensor:
    """Return scores of things (memories, cues, things + 1) of which so many neighbours are copies."""
    if copies == 1:
        return scores
    return torch.cat([scores[..., :-1].unflatten(-1, (-1, copies)).logsumexp(-1), scores[..., -1:]], -1)


def _mean_loss(posterior: Posterior, episodes: Sequence[Episodes]) -> float:
    with torch.no_grad():
        return float(_loss(posterior, episodes))


def _find_least(posterior: Posterior, units: _Units) -> int:
    """Return which of the agreements that are used counts least, by its spread."""
    effect = posterior.weights / units.factor
    return int(effect.where(units.factor > 0, torch.inf).nan_to_num(nan=torch.inf).argmin())
