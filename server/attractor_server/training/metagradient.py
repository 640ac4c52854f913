"""Meta-gradient of an episode; on a GPU its thousands of small operations are recorded once and replayed as one.

A step of training is a long chain of operations of some microseconds each, and launching one takes longer than that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.training.episodes import Episode, Plan
from attractor_server.training.objective import Objective
from attractor_server.training.recipe import Recipe

RECORDINGS_LIMIT = 128
"""Limit on kinds of recorded episodes; others are computed anew each time"""

_Kind: TypeAlias = tuple[Plan, torch.Size, torch.Size]


@dataclass(frozen=True)
class Measurement:
    """Two of an episode's losses, and the gradient of all of them together."""

    error: Tensor
    familiarity: Tensor
    gradients: Sequence[Tensor | None]
    """Gradients by learned parameter; None where it plays no part. Valid until the next episode"""


@dataclass(frozen=True, eq=False)
class _Recording:
    graph: torch.cuda.CUDAGraph
    episode: Episode
    measured: Measurement

    def replay(self, episode: Episode) -> Measurement:
        self.episode.copy_from(episode)
        self.graph.replay()
        return self.measured


class MetaGradient:
    """Meta-gradients with a model whose learned parameters change in place between episodes."""

    def __init__(self, objective: Objective, recipe: Recipe, model: Model, learned: Tensors) -> None:
        self._objective = objective
        self._recipe = recipe
        self._model = model
        self._learned = list(learned.values())
        self._kinds: set[_Kind] = set()
        self._recordings: dict[_Kind, _Recording] = {}
        self._pool: Any = None

    def compute(self, episode: Episode) -> Measurement:
        """Differentiate through both loops; on a GPU, record the second episode of a kind, and replay the later."""
        kind = (episode.plan, episode.patterns.shape, episode.targets.shape)
        if kind in self._recordings:
            return self._recordings[kind].replay(episode)
        if not episode.patterns.is_cuda or kind not in self._kinds or len(self._recordings) >= RECORDINGS_LIMIT:
            self._kinds.add(kind)
            return self._measure(episode)
        self._recordings[kind] = self._record(episode)
        return self._recordings[kind].replay(episode)

    def _measure(self, episode: Episode) -> Measurement:
        losses = self._objective.measure(self._model, self._recipe, episode)
        gradients = torch.autograd.grad(losses.total(self._recipe.optimizer), self._learned, allow_unused=True)
        return Measurement(losses.error.detach(), losses.familiarity.detach(), gradients)

    def _record(self, episode: Episode) -> _Recording:
        """Record an episode; all recordings share one pool, since a replay needs nothing that another left there."""
        own, graph = episode.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            measured = self._measure(own)
        self._pool = graph.pool()
        return _Recording(graph, own, measured)
