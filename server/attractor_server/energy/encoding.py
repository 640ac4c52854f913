"""Encodings of the values of fields for a network. Text becomes character codes, the rest stays."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.fields import Layout


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Values as users send them, missing ones NaN, to what the input transform takes, and back (claim 9)."""

    layout: Layout
    codes: Tensors
    """For each text field (characters, entries): one-hot rows, or learned ones"""

    @property
    def size(self) -> int:
        """Entries of one encoded pattern."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Entries of each field."""
        return [field.size * self._width(field.name) for field in self.layout.fields]

    def encode(self, values: Tensor) -> Tensor:
        """Encode values (…, values) as entries (…, entries)."""
        if not self.codes:
            return values
        parts = [
            _codes_of(values[..., span], self.codes[field.name]) if field.name in self.codes else values[..., span]
            for field, span in self.layout.spans
        ]
        return torch.cat(parts, -1)

    def decode(self, entries: Tensor) -> Tensor:
        """Decode entries (…, entries) to values (…, values); a character is the one whose code lies nearest."""
        if not self.codes:
            return entries
        parts = [
            _nearest(part, self.codes[field.name]) if field.name in self.codes else part
            for field, part in zip(self.layout.fields, entries.split(self.sizes, -1), strict=True)
        ]
        return torch.cat(parts, -1)

    def spread(self, known: Tensor) -> Tensor:
        """Spread a mask of values (…, values) over entries (…, entries)."""
        if not self.codes:
            return known
        parts = [known[..., span].repeat_interleave(self._width(field.name), -1) for field, span in self.layout.spans]
        return torch.cat(parts, -1)

    def _width(self, name: str) -> int:
        return self.codes[name].shape[1] if name in self.codes else 1


def logits(entries: Tensor, codes: Tensor) -> Tensor:
    """Compute how near each code is to each character of text entries (…, length·width): (…, length, characters)."""
    places = entries.unflatten(-1, (-1, codes.shape[1]))
    scores: Tensor = places @ codes.T - 0.5 * codes.square().sum(1)
    return scores


def _codes_of(values: Tensor, codes: Tensor) -> Tensor:
    missing = values.isnan()
    chosen = codes[values.masked_fill(missing, 0).long()]  # (…, length, width)
    return chosen.masked_fill(missing[..., None], torch.nan).flatten(-2)


def _nearest(entries: Tensor, codes: Tensor) -> Tensor:
    return logits(entries, codes).argmax(-1).to(entries.dtype)
