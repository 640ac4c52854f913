"""An encoder, off the event loop, and what it makes of notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import to_thread

from attractor_agents.encoders import Encoder, Floats, Kind
from attractor_agents.vectors import fit

DIMS = 384


@dataclass(frozen=True)
class Rows:
    """Patterns of notes, one for each part of their texts."""

    ids: Sequence[str]
    payloads: Sequence[Mapping[str, Any]]
    texts: Sequence[str]
    vectors: Floats


class Coder:
    """Makes vectors in worker threads."""

    def __init__(self, encoder: Encoder) -> None:
        """`encoder` is not asked for anything yet."""
        self.encoder = encoder

    async def encode(self, texts: Sequence[str], kind: Kind) -> Floats:
        """Return a vector of length 1 for each text, (texts, 384)."""
        return fit(await to_thread.run_sync(partial(self.encoder.encode, texts, kind=kind)), DIMS)

    async def encode_notes(self, notes: Sequence[tuple[str, Mapping[str, Any]]]) -> Rows:
        """Return the patterns of notes, given as ids and payloads."""
        parts = await to_thread.run_sync(lambda: [self.encoder.split(payload["text"]) for _, payload in notes])
        rows = [
            (name, {**payload, "part": number}, part)
            for (name, payload), own in zip(notes, parts, strict=True)
            for number, part in enumerate(own)
        ]
        ids, payloads, texts = zip(*rows, strict=True)
        return Rows(ids, payloads, texts, await self.encode(texts, "item"))
