"""Fit a posterior over kept patterns to episodes: which pattern a cue is of, or none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.posterior import AGREEMENTS, NONE, Evidence, Posterior
from attractor_server.training.datasets import Source
from attractor_server.training.datasets.alike import Alike
from attractor_server.training.distortions import Cues
from attractor_server.training.kept import find_evidence
from attractor_server.training.recipe import CueTable, DistortionTable, Recipe
from attractor_server.training.validation import (
    ALIKE_SHARE,
    CENTRES,
    Task,
    draw_trial,
    recall,
    write_memories,
)

MEMORIES, CUES = 8, 32
"""Memories of an episode, and the most cues of each"""
SEED, HELD_OUT_SEED = 300, 400
ITERATIONS = 80
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


def fit_posterior(model: Model, training: Source, held_out: Source, recipe: Recipe) -> Posterior:
    """Fit to episodes of training data, with the agreements that validation data ask for.

    Episodes are of all kinds of cues of the recipe, of whole patterns, and of other wordings where these are known;
    with half the rated number of patterns, that number and twice it; where vectors have frames, also of vectors that
    are alike.
    """
    ours, theirs = (
        list(_draw_episodes(model, source, recipe, seed))
        for source, seed in ((training, SEED), (held_out, HELD_OUT_SEED))
    )
    used: Sequence[bool] = [True] * len(AGREEMENTS)
    best = _fit(ours, used)
    least = _mean_loss(best, theirs)
    for _ in range(len(AGREEMENTS) - 1):
        used = _leave_out(best, ours)
        tried = _fit(ours, used)
        if (loss := _mean_loss(tried, theirs)) > TOLERANCE * least:
            break
        best, least = tried, min(least, loss)
    return best


def _draw_episodes(model: Model, source: Source, recipe: Recipe, seed: int) -> Iterator[Episodes]:
    framed = model.has_metric
    sources = [source, *(Alike(source, ALIKE_SHARE, centres) for centres in CENTRES)] if framed else [source]
    counts = sorted({max(1, recipe.capacity // 2), recipe.capacity, 2 * recipe.capacity})
    for (number, one), count in product(enumerate(sources), counts):
        for place, cue in enumerate(kinds_of_cues(source, recipe)):
            memories = MEMORIES // 2 if framed else MEMORIES
            drawn = seed + 100 * number + 10 * place
            task = Task(data=recipe.data, cues=[cue], count=count, memories=memories, seed=drawn + count)
            trial = draw_trial(one, task)
            if trial.patterns.shape != trial.unseen.values.shape:
                continue  # not so many patterns there
            fast = write_memories(model, trial.patterns, model.write_chunk, framed=framed)
            yield Episodes(*(_compare(model, fast, trial.patterns, cues) for cues in (trial.cues, trial.unseen)))


def _compare(model: Model, fast: Tensors, kept: Tensor, cues: Cues) -> Evidence:
    some = Cues(cues.values[:, :CUES], cues.known[:, :CUES])
    return find_evidence(model, fast, kept, some, recall(model, fast, some))


def kinds_of_cues(source: Source, recipe: Recipe) -> Sequence[CueTable]:
    """Return the recipe's kinds of cues, whole patterns, and other wordings where the source has such pairs.

    What a kind of cue lacks a field of, another wording lacks as well.
    """
    kinds = [cue.kind for cue in recipe.cues]
    cues = list(recipe.cues)
    if "clean" not in kinds:
        cues.append(CueTable(kind="clean"))
    if "drift" not in kinds and source.drifts is not None:
        gone = [DistortionTable(kind="field", field=cue.field) for cue in recipe.cues if cue.kind == "field"]
        cues.append(CueTable(kind="drift", then=gone))
    return cues


def _fit(episodes: Sequence[Episodes], used: Sequence[bool]) -> Posterior:
    """Minimise the mean cross-entropy of all episodes by L-BFGS, in units in which all evidence varies by 1."""
    spread = torch.stack([one.stored.agreements.flatten(0, 2).std(0) for one in episodes]).mean(0).nan_to_num()
    varied = torch.cat([each.none.flatten(0, 1) for one in episodes for each in (one.stored, one.unseen)])
    deviation = varied.std(0)
    deviation[0] = 1.0
    mask = torch.tensor(used, device=spread.device) & (spread > LEAST)
    factor, divisor = mask / spread.clamp(min=LEAST), deviation.clamp(min=LEAST)
    raw, none = (torch.zeros(size, device=spread.device, requires_grad=True) for size in (len(AGREEMENTS), len(NONE)))

    def now() -> Posterior:
        steady = torch.where(deviation > LEAST, none / divisor, 0.0)
        return Posterior(weights=softplus(raw) * factor, none=steady)

    optimiser = torch.optim.LBFGS([raw, none], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def step() -> float:
        optimiser.zero_grad()
        penalty = softplus(raw).square().mean() + none.square().mean()
        loss = _loss(now(), episodes) + PENALTY * penalty
        loss.backward()
        return float(loss.detach())

    optimiser.step(step)
    with torch.no_grad():
        found = now()
    return Posterior(weights=found.weights.detach().cpu(), none=found.none.detach().cpu())


def _loss(posterior: Posterior, episodes: Sequence[Episodes]) -> Tensor:
    losses = []
    for one in episodes:
        scores = posterior.scores(one.stored)
        right = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
        losses.append(cross_entropy(scores.flatten(0, 1), right.flatten()))
        scores = posterior.scores(one.unseen)
        losses.append(cross_entropy(scores.flatten(0, 1), torch.full_like(right, scores.shape[-1] - 1).flatten()))
    return torch.stack(losses).mean()


def _mean_loss(posterior: Posterior, episodes: Sequence[Episodes]) -> float:
    with torch.no_grad():
        return float(_loss(posterior.to(episodes[0].stored.none.device), episodes))


def _leave_out(posterior: Posterior, episodes: Sequence[Episodes]) -> Sequence[bool]:
    """Return which agreements are used but for the one that counts least by its spread."""
    spread = torch.stack([one.stored.agreements.flatten(0, 2).std(0).cpu() for one in episodes]).mean(0).nan_to_num()
    effect = (posterior.weights * spread).where(posterior.weights > 0, torch.inf)
    return [weight > 0 and place != int(effect.argmin()) for place, weight in enumerate(posterior.weights.tolist())]
