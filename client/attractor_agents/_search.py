"""Search by a cue and by words."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from attractor import AsyncMemory, Filter
from attractor_agents._notes import decode_note
from attractor_agents.encoders import Floats
from attractor_agents.types import Hit, Neighbour, Recalled


async def search(  # noqa: PLR0913 - all but the cue and its words by keyword
    memory: AsyncMemory,
    cue: Floats,
    words: str,
    *,
    k: int,
    where: Filter,
    by: Literal["posterior", "cue"],
    timeout_s: float | None,
) -> Recalled:
    """Find the notes that a cue most probably means, or that have the words, among those that conditions hold for."""
    found = await memory.search(cue, words=words, k=k, filter=where, values=True, by=by, timeout_s=timeout_s)
    hits = [
        Hit(**vars(note), probability=_or_zero(hit.probability), similarity=float(cue @ hit.values))
        for hit in found.hits
        if (note := decode_note(hit)) is not None and isinstance(hit.values, np.ndarray)
    ]
    return Recalled(hits=hits, probability=_or_zero(found.known), total=found.total)


async def find_nearest(
    memory: AsyncMemory, cue: Floats, *, k: int, where: Filter, timeout_s: float | None
) -> Sequence[Neighbour]:
    """Find the notes whose vectors are nearest to a cue, by their cosine."""
    found = await memory.search(cue, k=k, filter=where, values=True, by="cue", timeout_s=timeout_s)
    neighbours = [
        Neighbour(note, float(cue @ hit.values), hit.values)
        for hit in found.hits
        if (note := decode_note(hit)) is not None and isinstance(hit.values, np.ndarray)
    ]
    return sorted(neighbours, key=lambda neighbour: -neighbour.similarity)


def _or_zero(probability: float) -> float:
    return 0.0 if math.isnan(probability) else probability
