"""Search by a cue and by words.

The server ranks by the posterior of its model, or by cosines in the metric that the model was trained with. For vectors
that it was not trained on both mislead: of such the best some hundreds are fetched, and ranked here by plain cosines.
"""

import math
from collections.abc import Sequence

import numpy as np

from attractor import AsyncMemory, Filter
from attractor_agents._notes import decode_note
from attractor_agents.encoders import Floats
from attractor_agents.types import Hit, Neighbour, Recalled

CANDIDATES = 256
"""Hits that are ranked by plain cosines, at least"""
STEEPNESS = 20.0
"""Of the logistic curve from cosines to probabilities"""


async def search(  # noqa: PLR0913 - all but the cue and its words by keyword
    memory: AsyncMemory, cue: Floats, words: str, *, k: int, where: Filter, timeout_s: float | None
) -> Recalled:
    """Find the notes that a cue most probably means, or that have the words, by the model's posterior."""
    found = await memory.search(cue, words=words, k=k, filter=where, values=True, timeout_s=timeout_s)
    hits = [
        Hit(**vars(note), probability=_or_zero(hit.probability), similarity=float(cue @ hit.values))
        for hit in found.hits
        if (note := decode_note(hit)) is not None and isinstance(hit.values, np.ndarray)
    ]
    return Recalled(hits=hits, probability=_or_zero(found.known), total=found.total)


async def search_by_cosine(  # noqa: PLR0913
    memory: AsyncMemory,
    cue: Floats,
    words: str,
    *,
    k: int,
    where: Filter,
    known_from: float,
    timeout_s: float | None,
) -> Recalled:
    """Find the notes nearest to a cue among those that fit it or have the words, probable (½) from `known_from` on."""
    near, total = await _find_near(memory, cue, words, k=k, where=where, timeout_s=timeout_s)
    hits = [
        Hit(**vars(one.note), probability=_guess(one.similarity - known_from), similarity=one.similarity)
        for one in near[:k]
    ]
    return Recalled(hits=hits, probability=max((hit.probability for hit in hits), default=0.0), total=total)


async def find_nearest(
    memory: AsyncMemory, cue: Floats, *, k: int, where: Filter, timeout_s: float | None
) -> Sequence[Neighbour]:
    """Find the notes whose vectors are nearest to a cue, by their cosine."""
    near, _ = await _find_near(memory, cue, None, k=k, where=where, timeout_s=timeout_s)
    return near[:k]


async def _find_near(  # noqa: PLR0913
    memory: AsyncMemory, cue: Floats, words: str | None, *, k: int, where: Filter, timeout_s: float | None
) -> tuple[Sequence[Neighbour], int]:
    found = await memory.search(
        cue, words=words, k=max(k, CANDIDATES), filter=where, values=True, by="cue", timeout_s=timeout_s
    )
    neighbours = [
        Neighbour(note, float(cue @ hit.values), hit.values)
        for hit in found.hits
        if (note := decode_note(hit)) is not None and isinstance(hit.values, np.ndarray)
    ]
    return sorted(neighbours, key=lambda neighbour: -neighbour.similarity), found.total


def _guess(beyond: float) -> float:
    return 1 / (1 + math.exp(-STEEPNESS * beyond))


def _or_zero(probability: float) -> float:
    return 0.0 if math.isnan(probability) else probability
