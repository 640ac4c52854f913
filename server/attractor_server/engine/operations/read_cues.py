"""Cues that were read, side by side, with what kept patterns are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from torch import Tensor

from attractor_server.energy.posterior import Posterior
from attractor_server.engine.batch import ModelState, concatenate
from attractor_server.memories.outcomes import Floats, Integers, Recalled
from attractor_server.scheduling.jobs import Job

Asked: TypeAlias = tuple[Job, Recalled]
"""A query, and what the network answers"""


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
    delta_energy: Floats
    """(rows,): of the cues"""

    @classmethod
    def of(cls, state: ModelState, asked: Sequence[Asked]) -> "ReadCues":
        """Gather the cues of these queries: what is known of them where that is told, else all that is given."""
        told = concatenate([_find_told(job) for job, _ in asked])
        directions = [recalled.directions for _, recalled in asked if recalled.directions is not None]
        assert len(directions) == len(asked)
        return cls(
            state.model.prepare(state.to_device(told)),
            state.model.prepare(state.to_device(concatenate([recalled.values for _, recalled in asked]))),
            concatenate([one.cue for one in directions]),
            concatenate([one.reading for one in directions]),
            concatenate([recalled.delta_energy for _, recalled in asked]),
        )

    @cached_property
    def given(self) -> Floats | None:
        """1 where a cue is given, else 0, (rows, values); None where all are given whole."""
        gaps = self.prepared.isnan()
        return (~gaps).float().cpu().numpy() if bool(gaps.any()) else None

    @cached_property
    def u(self) -> Floats:
        """The cues, 0 where they are not given, (rows, values)."""
        filled = self.prepared if self.given is None else self.prepared.nan_to_num(nan=0.0)
        return filled.float().cpu().numpy()

    @cached_property
    def read_u(self) -> Floats:
        """The readings, (rows, values)."""
        return self.read.float().cpu().numpy()

    @cached_property
    def directions(self) -> Floats:
        """The cues, as unit vectors in network units, (rows, entries)."""
        return normalize(self.x)

    @cached_property
    def read_directions(self) -> Floats:
        """The readings, as unit vectors in network units, (rows, entries)."""
        return normalize(self.read_x)

    def score_none(self, posterior: Posterior, kept: Integers) -> Floats:
        """Return the scores of "none of them", (rows,), where memories keep so many patterns (rows,)."""
        size = self.read_u.shape[1]
        gaps = np.subtract(self.u, self.read_u)
        if self.given is None:
            count = np.full(len(gaps), size, np.float32)
        else:
            count = self.given.sum(1)
            gaps *= self.given
        features = (
            np.ones_like(count),
            self.delta_energy,
            np.log(np.maximum(kept, 1)),
            count / size,
            np.einsum("ij,ij->i", self.directions, self.read_directions),
            -np.einsum("ij,ij->i", gaps, gaps) / np.maximum(count, 1),
            -np.abs(gaps, out=gaps).sum(1) / np.maximum(count, 1),
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
    """Return the ways along which a pattern's direction adds its cosines to both, unit vectors, by their weights."""
    return np.ascontiguousarray(weights[0] * cues + weights[1] * readings, np.float32)


def normalize(x: Floats) -> Floats:
    """Return unit vectors (n, entries)."""
    found: Floats = x / np.maximum(np.sqrt(np.einsum("ij,ij->i", x, x)), 1e-12)[:, None]
    return found
