"""Kept patterns of a page, as a posterior compares them: made when they are first asked for, until the page changes."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attractor_server.memories.page import Page

VALUE_STEPS, DIRECTION_STEPS = 127, 32_767
"""Of a pattern's largest value, and of its direction's largest entry, in whole numbers of 8 and 16 bits"""


@dataclass(frozen=True, eq=False)
class KeptView:
    """The patterns of a page."""

    u: Tensor
    """(patterns, values) float32, value by value: what answers are made of"""
    values: Tensor
    """(patterns, values) int8: u in whole numbers, which cues are compared with: a quarter of the bytes"""
    steps: Tensor
    """(patterns,) float32: what makes these u again, about"""
    x: Tensor
    """(patterns, entries) int16: directions in network units and in the page's frame, in whole numbers"""
    lengths: Tensor
    """(patterns,) float32: what makes those unit vectors"""
    count: int
    """Patterns"""

    @classmethod
    def of(cls, u: Tensor, x: Tensor) -> "KeptView":
        """Make the view of patterns u (patterns, values), which are x (patterns, entries) in network units."""
        values, steps = _round(u, VALUE_STEPS, torch.int8)
        directions, _ = _round(x, DIRECTION_STEPS, torch.int16)
        lengths = 1 / torch.linalg.vector_norm(directions.float(), dim=-1).clamp(min=1)
        return cls(u.float().contiguous(), values, steps, directions, lengths, len(u))

    @cached_property
    def address(self) -> tuple[int, ...]:
        """Its structure, as the native library takes it."""
        return self.count, *(tensor.data_ptr() for tensor in self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def _tensors(self) -> Sequence[Tensor]:
        return self.u, self.values, self.steps, self.x, self.lengths


def view_bytes(patterns: int, values: int, entries: int) -> int:
    """Return the bytes of a view of so many patterns."""
    return patterns * (5 * values + 2 * entries + 8)


def _round(rows: Tensor, most: int, whole: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows (n, size) in whole numbers, and the step of each, (n,)."""
    steps = rows.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny) / most
    return (rows / steps[:, None]).round().to(whole).contiguous(), steps.float().contiguous()


class KeptViews:
    """Views of pages, as many as there is room for; those that were asked for longest ago leave. One thread has it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._views: OrderedDict[int, tuple[int, KeptView | None]] = OrderedDict()
        """By the page's id, with how often it was written then; None where not all of its patterns are kept"""
        self._bytes = 0

    def find(self, pages: Sequence[Page]) -> Mapping[Page, KeptView | None]:
        """Return the views that are there of the pages as they are now."""
        found = {}
        for page in pages:
            if (one := self._views.get(page.id)) is not None and one[0] == page.writes:
                self._views.move_to_end(page.id)
                found[page] = one[1]
        return found

    def add(self, views: Mapping[Page, KeptView | None]) -> None:
        """Take views of pages as they are now."""
        for page, view in views.items():
            self._drop(page.id)
            self._views[page.id] = page.writes, view
            self._bytes += 0 if view is None else view.nbytes
        while self._bytes > self._limit_bytes and len(self._views) > 1:
            self._drop(next(iter(self._views)))

    def _drop(self, page: int) -> None:
        if (one := self._views.pop(page, None)) is not None and one[1] is not None:
            self._bytes -= one[1].nbytes
