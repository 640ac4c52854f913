"""Cues and readings beside kept patterns: their agreements, and the patterns' mean, by the fastest way of a device.

The formulas are those of `energy.posterior`; here patterns lie in views of pages, of which each cue is compared with
other ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attractor_server.energy.posterior import Area, move, sum_windows
from attractor_server.engine.pages.kept_views import KeptView
from attractor_server.memories.outcomes import Floats, Integers

AT_A_TIME = 1 << 24
"""Values of patterns that are compared at a time where they are copied side by side"""


class Pairs(Protocol):
    """Pairs of a row of cues with a view. What there is of a pair's patterns follows that of the pair before it."""

    @property
    def views(self) -> Sequence[KeptView]:
        """The views, by their numbers."""

    @property
    def view(self) -> Integers:
        """The view of each pair."""

    @property
    def counts(self) -> Integers:
        """Patterns of each pair."""

    def compare(self, cues: Floats, given: Floats | None, readings: Floats, weights: Floats) -> Floats:
        """Return the weighed sums of negative differences, (patterns of all pairs,).

        Cues and readings are (rows, values), `given` is 1 where a cue is, else 0, as is the cue; None: all are whole.
        The weights (4,) are of mean squares to the cue and to the reading, and of mean absolute differences to either.
        """

    def point(self, ways: Floats, scores: Floats) -> None:
        """Add the products of the patterns' directions with ways (rows, entries) to the scores."""

    def move(self, cues: Floats, given: Floats | None, area: Area, limits: Floats) -> Floats:
        """Return the least sums of squares between the middle of an image of the cues and any place of the patterns'.

        (patterns of all pairs,); the row's limit (rows,) where none is below that.
        """

    def cover(self, cues: Floats, given: Floats | None, area: Area, variation: Floats, limits: Floats) -> Floats:
        """Return the least sums of squares between an image of the cues, covered anywhere, and the patterns'.

        (patterns of all pairs,); the row's limit (rows,) where none is below that. See `posterior.measure_variation`.
        """

    def mix(self, shares: Floats, means: Floats, *, least: float) -> None:
        """Add the patterns by their shares to means (rows, values), where these are above the least."""

    def measure(self, shares: Floats, points: Floats, units: Floats, *, least: float) -> Floats:
        """Return the squared distances, in units (values,), of the patterns from points (rows, values).

        (patterns of all pairs,); 0 where their shares are not above the least.
        """


def pair(views: Sequence[KeptView], view: Integers, row: Integers) -> Pairs:
    """Pair rows with views, (pairs,) each, by their numbers."""
    counts = np.array([one.count for one in views], np.int64)[view]
    if has_kernel(views[0].u.device):
        from attractor_server.engine.compute.native.kept import HostPairs  # noqa: PLC0415 - compiles

        return HostPairs(list(views), np.ascontiguousarray(view), np.ascontiguousarray(row), counts)
    return TensorPairs(views, view, row, counts)


def has_kernel(device: torch.device) -> bool:
    """Return whether the native library compares what is on that device."""
    if device.type != "cpu":
        return False
    from attractor_server.engine.compute.native.library import library  # noqa: PLC0415 - compiles

    return library() is not None


@dataclass(frozen=True, eq=False)
class TensorPairs:
    """See `Pairs`: on any device."""

    views: Sequence[KeptView]
    view: Integers
    row: Integers
    counts: Integers

    def compare(self, cues: Floats, given: Floats | None, readings: Floats, weights: Floats) -> Floats:
        """See `Pairs`."""
        asked, found = self._to_device(cues), self._to_device(readings)
        known = torch.ones_like(asked) if given is None else self._to_device(given)
        cue_square, read_square, cue_absolute, read_absolute = weights.tolist()
        size, parts = cues.shape[1], list[Floats]()
        for view, row, kept in self._parts(self._pad([one.values * one.steps[:, None] for one in self.views])):
            u, mask = kept[view], known[row][:, None]
            far, further = (asked[row][:, None] - u).abs() * mask, (found[row][:, None] - u).abs()
            count = mask.sum(-1).clamp(min=1)
            scores = (far * (cue_square * far + cue_absolute)).sum(-1) / count
            scores += (further * (read_square * further + read_absolute)).sum(-1) / size
            parts.append(self._collect(-scores, view))
        return np.concatenate(parts)

    def point(self, ways: Floats, scores: Floats) -> None:
        """See `Pairs`."""
        directions = self._pad([one.x * one.lengths[:, None] for one in self.views])
        towards = self._to_device(ways)
        parts = [
            self._collect((kept[view] @ towards[row][..., None])[..., 0], view)
            for view, row, kept in self._parts(directions)
        ]
        scores += np.concatenate(parts)

    def move(self, cues: Floats, given: Floats | None, area: Area, limits: Floats) -> Floats:
        """See `Pairs`."""
        told = cues if given is None else np.where(given > 0, cues, np.float32(np.nan))
        places = move(self._to_device(np.ascontiguousarray(told)), [area])[..., area.span]
        known, parts = ~places.isnan(), list[Floats]()
        for view, row, kept in self._parts(self._pad([one.values * one.steps[:, None] for one in self.views])):
            image = kept[view][:, None, :, area.span]
            gaps = (places[row][:, :, None].nan_to_num() - image) * known[row][:, :, None]
            parts.append(self._collect(gaps.square().sum(-1).amin(1), view))
        return np.minimum(np.concatenate(parts), np.repeat(limits[self.row], self.counts))

    def cover(self, cues: Floats, given: Floats | None, area: Area, variation: Floats, limits: Floats) -> Floats:
        """See `Pairs`."""
        shape, within, parts = (area.height, area.width, -1), self._to_device(variation), list[Floats]()
        asked = self._to_device(cues)[:, area.span]
        known = torch.ones_like(asked) if given is None else self._to_device(given)[:, area.span]
        for view, row, kept in self._parts(self._pad([one.values * one.steps[:, None] for one in self.views])):
            gaps = (asked[row][:, None] - kept[view][..., area.span]).square() * known[row][:, None]
            pictures = gaps.unflatten(-1, shape).sum(-1)
            beside = pictures.sum((-1, -2))[..., None, None] - sum_windows(pictures) + within[row][:, None]
            parts.append(self._collect(beside.clamp(min=0).amin((-1, -2)), view))
        return np.minimum(np.concatenate(parts), np.repeat(limits[self.row], self.counts))

    def mix(self, shares: Floats, means: Floats, *, least: float) -> None:
        """See `Pairs`."""
        for _, (u, row, own) in self._weighed(shares, least):
            means[row] += (own @ u).cpu().numpy()

    def measure(self, shares: Floats, points: Floats, units: Floats, *, least: float) -> Floats:
        """See `Pairs`."""
        unit, found = self._to_device(units), np.zeros_like(shares)
        parts = np.split(found, np.cumsum(self.counts)[:-1])
        for part, (u, row, own) in self._weighed(shares, least):
            gaps = (u - self._to_device(points[row])) * unit
            parts[part][:] = torch.where(own > 0, gaps.square().sum(-1), 0.0).cpu().numpy()
        return found

    def _weighed(self, shares: Floats, least: float) -> Iterator[tuple[int, tuple[Tensor, int, Tensor]]]:
        """Yield those pairs in which some have shares above the least: patterns, row, and these shares."""
        parts = np.split(np.where(shares > least, shares, 0), np.cumsum(self.counts)[:-1])
        for part, (view, row, own) in enumerate(zip(self.view.tolist(), self.row.tolist(), parts, strict=True)):
            if own.any():
                yield part, (self.views[view].u, row, self._to_device(own))

    def _parts(self, kept: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        step = max(1, AT_A_TIME // kept[0].numel())
        for start in range(0, len(self.view), step):
            part = slice(start, start + step)
            view, row = (torch.from_numpy(one[part]).to(kept.device) for one in (self.view, self.row))
            yield view, row, kept

    def _collect(self, padded: Tensor, view: Tensor) -> Floats:
        """Return the rows (pairs, most) without what is beyond the patterns of each."""
        counts = torch.tensor([one.count for one in self.views], device=view.device)[view]
        there = torch.arange(padded.shape[1], device=view.device) < counts[:, None]
        return padded[there].cpu().numpy()

    def _pad(self, tensors: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(tensors), batch_first=True)

    def _to_device(self, array: Floats) -> Tensor:
        return torch.from_numpy(array).to(self.views[0].u.device)
