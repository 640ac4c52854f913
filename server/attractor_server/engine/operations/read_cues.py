"""Cues that were read, side by side, with what kept patterns are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from attractor_server.energy.posterior import Posterior
from attractor_server.engine.batch import ModelState, concatenate
from attractor_server.engine.pages.kept_views import KeptView
from attractor_server.memories.outcomes import Floats, Recalled
from attractor_server.scheduling.jobs import Job


@dataclass(frozen=True, eq=False)
class Asked:
    """An answered query, and the pages of its memory that keep their patterns."""

    job: Job
    recalled: Recalled
    numbers: Sequence[int]
    """Of the pages in the memory"""
    views: Sequence[KeptView]


@dataclass(frozen=True, eq=False)
class ReadCues:
    """Cues and readings of some queries, row after row."""

    prepared: Tensor
    """(rows, values) as `whiten` takes them; NaN where nothing is given"""
    read: Tensor
    """(rows, values), of the readings"""
    x: Floats
    """(rows, entries): in network units, in the frames of the pages that were read"""
    read_x: Floats

    @classmethod
    def of(cls, state: ModelState, asked: Sequence[Asked]) -> "ReadCues":
        """Gather the cues of these queries: what is known of them where that is told, else all that is given."""
        model = state.model
        told = concatenate([_find_told(one.job) for one in asked])
        values = concatenate([one.recalled.values for one in asked])
        directions = [one.recalled.directions for one in asked if one.recalled.directions is not None]
        assert len(directions) == len(asked)
        return cls(
            model.prepare(state.to_device(told)),
            model.prepare(state.to_device(values)),
            concatenate([one.cue for one in directions]),
            concatenate([one.reading for one in directions]),
        )

    @cached_property
    def given(self) -> Floats:
        """1 where a cue is given, else 0, (rows, values)."""
        return (~self.prepared.isnan()).float().cpu().numpy()

    @cached_property
    def u(self) -> Floats:
        """The cues, 0 where they are not given, (rows, values)."""
        return np.ascontiguousarray(self.prepared.nan_to_num(nan=0.0).float().cpu().numpy())

    @cached_property
    def read_u(self) -> Floats:
        """The readings, (rows, values)."""
        return np.ascontiguousarray(self.read.float().cpu().numpy())

    def score_none(self, posterior: Posterior, asked: Sequence[Asked]) -> Floats:
        """Return the scores of "none of them", (rows,)."""
        count = self.given.sum(1)
        held = [np.full(one.job.size, max(1, sum(len(view.u) for view in one.views)), np.float32) for one in asked]
        gaps = np.abs(self.u - self.read_u) * self.given
        features = (
            np.ones_like(count),
            concatenate([one.recalled.delta_energy for one in asked]),
            np.log(concatenate(held)),
            count / self.given.shape[1],
            (_normalize(self.x) * _normalize(self.read_x)).sum(1),
            -np.square(gaps).sum(1) / np.maximum(count, 1),
            -gaps.sum(1) / np.maximum(count, 1),
        )
        scores: Floats = np.stack(features, 1).astype(np.float32) @ posterior.none.float().cpu().numpy()
        return scores


def _find_told(job: Job) -> Floats:
    """Return cues (n, d) with NaN where nothing is known; those of which nothing is told as they are."""
    assert job.values is not None
    if job.known is None:
        return job.values
    return np.where(job.known | ~job.known.any(1, keepdims=True), job.values, np.float32(np.nan))


def combine(cues: Floats, readings: Floats, weights: Floats) -> Floats:
    """Return the ways along which a pattern's direction adds both cosines by their weights."""
    return np.ascontiguousarray(weights[0] * _normalize(cues) + weights[1] * _normalize(readings), np.float32)


def _normalize(x: Floats) -> Floats:
    found: Floats = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return found
