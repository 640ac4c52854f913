"""Frames: the vectors that a page keeps, in their own metric.

Vectors that are alike share most of what they are, and differ in few directions; a model expects them as different as
its training data. A frame takes away what a page's vectors share, evens out how much they differ in each direction, and
restores the mean of their squared lengths:

    x = s·F(u − μ),   F = (I + κ/(1 − κ)·C/b)^(−¼)

It lies between the value-by-value part of a model's input transform and its whitening, so that u is 0 at the mean of
the training data. C is the covariance of the page's n vectors about their mean m, and b = tr C/d. The mean is shrunk
towards that 0 as by James, Stein: μ = w·m with w = 1 − tr C/((n − 1)‖m‖²), not below 0, so that little is taken away
of vectors that share little. The covariance is shrunk towards b·I: κ = (1 − ρ)(n − 1)/(n + 7) with ρ by Chen, Wiesel,
Eldar and Hero (Shrinkage Algorithms for MMSE Covariance Estimation, 2010: OAS), and less while there are few vectors. F
is the identity off the span of the vectors, so it is kept as few axes a, rounded to eight bits: F = I + Σ f·aaᵀ, and
F⁻¹ = I + Σ f′·aaᵀ. A page that holds more vectors than there are axes for is evened out less: −¼ times r + 1 of n.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

PRIOR = 7
"""Vectors that a page must have many more of before their covariance counts in full"""
NOISE = 1e-12
"""Variance in parts of the mean square that rounding alone may leave of equal vectors"""
TINY = torch.finfo(torch.float64).tiny
POWER = -0.25
"""Of the covariance, where there is an axis for all: -½ would whiten, 0 leaves everything as it is"""
TOGETHER = 16
"""Pages that are fitted at a time, so that they stay in the cache"""
STEPS = 127
"""Of an axis' entries, the largest of which has so many"""

Spans: TypeAlias = Mapping[str, slice]
"""Columns of the fields that have frames, by the fields' names"""


class Framing(Protocol):
    """Frames of pages, for the fields of a pattern side by side: u (pages, patterns, entries)."""

    def encode(self, u: Tensor) -> Tensor:
        """Return u in the frames; an entry that is missing (NaN) counts as the page's mean, or as 0 without frame."""

    def decode(self, x: Tensor) -> Tensor:
        """Return x in the units of u: the inverse of `encode`."""

    def pull_back(self, slope: Tensor) -> Tensor:
        """Return the slope by x of what has that slope by u."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Frames of several pages, of one field.

    That of a page with fewer than two vectors, or equal ones, changes nothing.
    """

    mean: Tensor
    """(pages, d), μ"""
    axes: Tensor
    """(pages, r, d) int8: rows at right angles to one another; zeros beyond the rank"""
    forth: Tensor
    """(pages, r), f"""
    back: Tensor
    """(pages, r), f′"""
    scale: Tensor
    """(pages, 1), s"""

    def encode(self, u: Tensor) -> Tensor:
        """See `Framing`: u (pages, patterns, d)."""
        return self.scale[..., None] * self._stretch(fill_gaps(u - self.mean[:, None]), self.forth)

    def decode(self, x: Tensor) -> Tensor:
        """See `Framing`: x (pages, patterns, d)."""
        return self.pull_back(x) + self.mean[:, None]

    def pull_back(self, slope: Tensor) -> Tensor:
        """See `Framing`: slope (pages, patterns, d). F is symmetric."""
        return self._stretch(slope / self.scale[..., None], self.back)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """All that it is made of."""
        return [getattr(self, part) for part in PARTS]

    def _stretch(self, x: Tensor, factors: Tensor) -> Tensor:
        axes = self.axes.to(x.dtype)
        return x + (x @ axes.mT * factors[:, None]) @ axes


@dataclass(frozen=True)
class Frames:
    """See `Framing`; entries outside of the spans stay as they are."""

    parts: Sequence[tuple[slice, Frame]]

    def select(self, pages: Tensor) -> "Frames":
        """Return the frames of some of the pages, (n,) int64."""
        return Frames(
            [
                (span, Frame(**{part: getattr(frame, part).index_select(0, pages) for part in PARTS}))
                for span, frame in self.parts
            ]
        )

    def encode(self, u: Tensor) -> Tensor:
        """See `Framing`."""
        return self._apply(Frame.encode, fill_gaps, u)

    def decode(self, x: Tensor) -> Tensor:
        """See `Framing`."""
        return self._apply(Frame.decode, None, x)

    def pull_back(self, slope: Tensor) -> Tensor:
        """See `Framing`."""
        return self._apply(Frame.pull_back, None, slope)

    def _apply(
        self, change: Callable[[Frame, Tensor], Tensor], others: Callable[[Tensor], Tensor] | None, x: Tensor
    ) -> Tensor:
        span, frame = self.parts[0]
        if len(self.parts) == 1 and (span.start, span.stop) == (0, x.shape[-1]):
            return change(frame, x)
        changed = x.clone() if others is None else others(x)
        for span, frame in self.parts:
            changed[..., span] = change(frame, x[..., span])
        return changed


PREFIX = "frame."

PARTS = tuple(field.name for field in fields(Frame))


def is_frame(name: str) -> bool:
    """Return whether the tensor of that name is a part of a frame, rather than fast weights."""
    return name.startswith(PREFIX)


def weights_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the fast weights among the tensors of pages."""
    return {name: tensor for name, tensor in tensors.items() if not is_frame(name)}


def parts_of_frames(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts of frames among the tensors of pages."""
    return {name: tensor for name, tensor in tensors.items() if is_frame(name)}


def means_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means of frames among the tensors of pages: of a frame, what no order of its axes changes."""
    return {name: tensor for name, tensor in parts_of_frames(tensors).items() if name.endswith(".mean")}


def initial_frames(spans: Spans, *, rank: int) -> dict[str, Tensor]:
    """Return tensors of frames of one page that change nothing, each (*shape), named `frame.FIELD.PART`."""
    tensors: dict[str, Tensor] = {}
    for name, span in spans.items():
        size = span.stop - span.start
        tensors |= _name(
            name,
            Frame(
                mean=torch.zeros(size),
                axes=torch.zeros(rank, size, dtype=torch.int8),
                forth=torch.zeros(rank),
                back=torch.zeros(rank),
                scale=torch.ones(1),
            ),
        )
    return tensors


def fit_frames(u: Tensor, spans: Spans, *, present: Tensor, rank: int) -> dict[str, Tensor]:
    """Fit the frames of pages to the patterns u (pages, n, entries) that are present (pages, n), named as above."""
    tensors: dict[str, Tensor] = {}
    for name, span in spans.items():
        tensors |= _name(name, fit_frame(u[..., span], present=present, rank=rank))
    return tensors


def frames_of(tensors: Mapping[str, Tensor], spans: Spans) -> Frames | None:
    """Return the frames among the tensors of pages, each (pages, *shape); None where no field has one."""
    if not spans:
        return None
    parts = {name: {part: tensors[f"{PREFIX}{name}.{part}"] for part in PARTS} for name in spans}
    return Frames([(span, Frame(**parts[name])) for name, span in spans.items()])


def fit_frame(patterns: Tensor, *, present: Tensor, rank: int) -> Frame:
    """Fit the frames of pages to the patterns (pages, n, d) that are present (pages, n), with `rank` axes each.

    What stands in the place of an absent pattern has no effect. Computed by the products of a page's patterns with one
    another, since n may be far below d, and in double precision, so that rounding moves hardly an entry of an axis.
    """
    parts = zip(patterns.split(TOGETHER), present.split(TOGETHER), strict=True)
    fitted = [_fit_together(some, here, rank) for some, here in parts]
    return (
        fitted[0]
        if len(fitted) == 1
        else Frame(**{part: torch.cat([getattr(one, part) for one in fitted]) for part in PARTS})
    )


def _fit_together(patterns: Tensor, present: Tensor, rank: int) -> Frame:
    own, size = patterns.dtype, patterns.shape[2]
    # The mean and the covariance, by the products of the patterns about their mean
    exact, count = patterns.double(), present.sum(1).double()
    whole = bool(present.all())
    if not whole:
        exact = exact.masked_fill(~present[..., None], 0)
    n = count.clamp(min=1)
    mean = exact.sum(1) / n[:, None]
    centred = exact - mean[:, None]
    if not whole:
        centred.mul_(present[..., None])
    spectrum, vectors = _decompose(centred @ centred.mT / n[:, None, None])
    total, squares, length = spectrum.sum(1), spectrum.square().sum(1), mean.square().sum(1)
    varied = (count > 1) & (total > NOISE * (total + length))
    total = total.where(varied, 1.0)
    # What is taken away, and how far each axis is stretched
    left = (total / ((n - 1).clamp(min=1) * length).clamp(min=TINY)).clamp(max=1)
    share = _covariance_share(total, squares, n, size)
    power = POWER * ((rank + 1) / n).clamp(max=1)[:, None]
    gains = (1 + (share / (1 - share) * size / total)[:, None] * spectrum) ** power
    # Of ‖F(u − μ)‖² the mean is tr F²C + ‖F(m − μ)‖²
    alongside = (vectors @ (centred @ mean[..., None]))[..., 0].square() / (n[:, None] * spectrum).clamp(min=TINY)
    kept = spectrum[:, :rank] > 0
    grown = ((gains.square() - 1) * alongside)[:, :rank] * kept
    after = (gains.square() * spectrum)[:, :rank].sum(1) + spectrum[:, rank:].sum(1)
    after = after + left.square() * (length + grown.sum(1))
    scale = ((total + length) / after).sqrt().where(varied, 1.0)
    axes, squared = _round_axes(vectors[:, :rank].to(own) @ centred.to(own), kept)
    forth = ((gains[:, :rank] - 1) / squared).where(varied[:, None] & kept, 0.0)
    room = rank - axes.shape[1]
    return Frame(
        mean=(mean * ((1 - left) * varied)[:, None]).to(own),
        axes=pad(axes, (0, 0, 0, room)),
        forth=pad(forth, (0, room)).to(own),
        back=pad(-forth / (1 + forth * squared), (0, room)).to(own),
        scale=scale[:, None].to(own),
    )


def fill_gaps(u: Tensor) -> Tensor:
    """Return u with 0 where an entry is missing."""
    return u.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def _decompose(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (pages, n) of symmetric matrices, largest first and noise as 0, and their vectors as rows."""
    spectrum, vectors = torch.linalg.eigh(products)
    spectrum = spectrum.flip(-1).clamp(min=0)
    noise = spectrum[:, :1] * spectrum.shape[1] * torch.finfo(torch.float64).eps
    return spectrum.where(spectrum > noise, 0.0), vectors.flip(-1).mT


def _round_axes(axes: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the axes (pages, r, d) that are kept as whole numbers, int8, and the squares of their lengths."""
    largest = axes.abs().amax(2)
    factor = torch.where(kept & (largest > 0), STEPS / largest, 0.0)
    rounded = axes.mul_(factor[..., None].to(axes.dtype)).round_()
    return rounded.to(torch.int8), torch.linalg.vector_norm(rounded, dim=2).double().square()


def _covariance_share(total: Tensor, squares: Tensor, n: Tensor, size: int) -> Tensor:
    """Return κ, (pages,), of covariances with these traces and traces of their squares."""
    spread = (n + 1 - 2 / size) * (squares - total.square() / size)
    sphericity = ((1 - 2 / size) * squares + total.square()) / spread
    oracle = torch.where(spread > 0, sphericity, 1.0).clamp(max=1)
    return (1 - oracle) * (n - 1) / (n + PRIOR)


def _name(field: str, frame: Frame) -> dict[str, Tensor]:
    return {f"{PREFIX}{field}.{part}": getattr(frame, part) for part in PARTS}
