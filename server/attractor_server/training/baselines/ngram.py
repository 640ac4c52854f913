"""N-gram model of the training lines: a memoryless baseline that fills in missing characters."""

from dataclasses import dataclass

import torch
from torch import Tensor

MISSING = -1


@dataclass(frozen=True)
class NGram:
    """Characters as draws that depend on the few before them; orders interpolated as Witten and Bell (1991) do."""

    log_odds: Tensor
    """(characters + 1,) · (order − 1) by (characters,): log P of a character after those; one more begins a line"""

    @classmethod
    def fit(cls, lines: Tensor, *, characters: int, order: int = 4) -> "NGram":  # (n, length) whole numbers
        """Count in training lines, and mix each order with the one below by how often a context brings new ones."""
        rows = torch.full((len(lines), lines.shape[1] + order - 1), characters)
        rows[:, order - 1 :] = lines
        windows = rows.unfold(1, order, 1).reshape(-1, order)  # a character with those before it
        odds = torch.full((characters,), 1 / characters)
        for length in range(order):
            counts = _counts(windows[:, order - 1 - length :], characters)
            fresh = (counts > 0).sum(-1, keepdim=True).clamp(min=1)
            odds = (counts + fresh * odds) / (counts.sum(-1, keepdim=True) + fresh)
        return cls(odds.log())

    def fill(self, lines: Tensor, *, beam: int = 32) -> Tensor:
        """Return the likeliest whole lines (n, length) with these known characters; −1 where one is missing.

        Characters right of a gap count as much as those left of it: the search keeps the `beam` likeliest beginnings of
        a line, and later characters drop those that they make unlikely.
        """
        characters, context = self.log_odds.shape[-1], self.log_odds.dim() - 1
        found = torch.full((len(lines), 1, context), characters)  # (n, beginnings, characters so far)
        scores = torch.zeros(len(lines), 1)
        for known in lines.long().unbind(1):
            before = found[..., found.shape[-1] - context :].unbind(-1)
            follow = self.log_odds[before].expand(*scores.shape, -1)
            excluded = (known[:, None] != MISSING) & (known[:, None] != torch.arange(characters))
            total = (scores[..., None] + follow).masked_fill(excluded[:, None], -torch.inf).flatten(1)
            scores, chosen = total.topk(min(beam, total.shape[1]), 1)
            parents = (chosen // characters)[..., None].expand(-1, -1, found.shape[-1])
            found = torch.cat([found.gather(1, parents), (chosen % characters)[..., None]], -1)
        return found[:, 0, context:]


def _counts(windows: Tensor, characters: int) -> Tensor:
    """Count how often each character (last column of windows (n, length + 1)) follows each context, (…, characters)."""
    side = characters + 1
    powers = side ** torch.arange(windows.shape[1]).flip(0)
    counts = torch.bincount((windows.long() * powers).sum(1), minlength=side ** windows.shape[1])
    return counts.reshape([side] * windows.shape[1])[..., :characters].float()
