"""A mixture of distortions that nobody is told of, as users' cues are."""

from collections.abc import Sequence

from attractor_server.training.datasets import Source
from attractor_server.training.recipe import CueTable, DistortionTable

SIDE = 28
"""Side of an image for which the distortions below are meant; others have them in proportion"""
PATTERNS = 4096
"""Patterns that the deviation of numbers is measured on"""


def mixture_of(source: Source) -> Sequence[CueTable]:
    """Return the mixture for a source: five kinds for images, else gaps, noise, and drifts where these are known.

    Noise on numbers deviates as much as they do; text has none.
    """
    (field, *_) = source.layout.fields
    if not field.traits.has_area:
        vectors = [CueTable(kind="missing", amount=0.5)]
        if not any(one.has_codes for one in source.layout.fields):
            vectors.append(CueTable(kind="noise", amount=float(f"{float(source.pool(PATTERNS).std()):.1g}")))
        return vectors if source.drifts is None else [*vectors, CueTable(kind="drift")]

    def scale(pixels: int) -> float:
        return max(1.0, float(round(pixels * field.shape[0] / SIDE)))

    noise, rows = DistortionTable(kind="noise", amount=0.2), DistortionTable(kind="rows", amount=scale(8))
    return [
        CueTable(kind="block", amount=scale(14)),
        CueTable(kind="noise", amount=0.3),  # σ 0.6 of values from -1 to 1
        CueTable(kind="block", amount=scale(11), then=[noise]),
        CueTable(kind="shift", amount=2),
        CueTable(kind="contrast", amount=0.5, then=[rows]),
    ]
