"""Frames: the vectors that a page keeps, in their own metric.

Vectors that are alike share most of what they are, and differ in few directions; a model expects them as different as
its training data. A frame takes away what a page's vectors share, evens out how much they differ in each direction, and
restores their length:

    x = s·F(v − μ),   F = (I + κ/(1 − κ)·C/b)^(−¼)

C is the covariance of the page's n vectors about their mean m, and b = tr C/d. The mean is shrunk as by James, Stein:
μ = w·m with w = 1 − tr C/((n − 1)‖m‖²), not below 0, so that little is taken away of vectors that share little. The
covariance is shrunk towards b·I: κ = (1 − ρ)(n − 1)/(n + 7) with ρ by Chen, Wiesel, Eldar and Hero (Shrinkage
Algorithms for MMSE Covariance Estimation, 2010: OAS), and less while there are few vectors. F is the identity off the
span of the vectors, so it is kept as few axes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PRIOR = 7
"""Vectors that a page must have many more of before their covariance counts in full"""
NOISE = 1e-12
"""Variance in parts of the mean square that rounding alone may leave of equal vectors"""
POWER = -0.25
"""Of the covariance: -½ would whiten, 0 leaves everything as it is"""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Frames of several pages. One of a page with fewer than two vectors, or equal ones, changes nothing."""

    mean: Tensor
    """(pages, d), μ"""
    axes: Tensor
    """(pages, r, d): orthonormal rows; zeros beyond the rank"""
    gains: Tensor
    """(pages, r): F along each axis"""
    scale: Tensor
    """(pages,), s"""

    def encode(self, values: Tensor) -> Tensor:
        """Return values (pages, patterns, d) in the frame; one that is missing (NaN) counts as the mean."""
        centred = (values - self.mean[:, None]).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        return self.scale[:, None, None] * self._stretch(centred, self.gains)

    def decode(self, x: Tensor) -> Tensor:
        """Return x (pages, patterns, d) in the units of its user: the inverse of `encode`."""
        return self._stretch(x / self.scale[:, None, None], 1 / self.gains) + self.mean[:, None]

    def _stretch(self, x: Tensor, gains: Tensor) -> Tensor:
        along = x @ self.axes.mT
        return x + (along * (gains - 1)[:, None]) @ self.axes


def fit_frame(patterns: Tensor, *, present: Tensor, rank: int) -> Frame:
    """Fit the frames of pages to the patterns (pages, n, d) that are present (pages, n), with up to `rank` axes each.

    What stands in the place of an absent pattern has no effect. Computed in double precision, by the products of a
    page's patterns with one another: n may be far below d.
    """
    exact, weight = patterns.double().masked_fill(~present[..., None], 0), present.double()
    count = weight.sum(1)
    n = count.clamp(min=1)
    mean = exact.sum(1) / n[:, None]
    centred = (exact - mean[:, None]) * weight[..., None]
    spectrum, axes = _principal_axes(centred, n, rank)
    total, squares = spectrum.sum(1), spectrum.square().sum(1)
    varied = (count > 1) & (total > NOISE * exact.square().sum((1, 2)) / n)
    total = total.where(varied, 1.0)
    share = _covariance_share(total, squares, n, patterns.shape[-1])
    kept = spectrum[:, :rank]
    gains = (1 + (share / (1 - share) * patterns.shape[-1] / total)[:, None] * kept) ** POWER
    shrunk = 1 - total / ((n - 1).clamp(min=1) * mean.square().sum(1)).clamp(min=torch.finfo(torch.float64).tiny)
    centre = mean * (shrunk.clamp(min=0) * varied)[:, None]
    unscaled = Frame(mean=centre, axes=axes, gains=gains.where(varied[:, None], 1.0), scale=torch.ones_like(n))
    lengths = [(one.norm(dim=2) * weight).sum(1) for one in (exact, unscaled.encode(exact))]
    scale = (lengths[0] / lengths[1]).where(varied, 1.0)
    own = patterns.dtype
    return Frame(mean=centre.to(own), axes=axes.to(own), gains=unscaled.gains.to(own), scale=scale.to(own))


def _principal_axes(centred: Tensor, n: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the variances of centred patterns (pages, n, d), largest first, and the axes of up to `rank` of them."""
    products = centred @ centred.mT / n[:, None, None]
    spectrum, vectors = (part.flip(-1) for part in torch.linalg.eigh(products))
    spectrum = spectrum.clamp(min=0)
    noise = spectrum[:, :1] * centred.shape[1] * torch.finfo(torch.float64).eps
    spectrum = spectrum.where(spectrum > noise, 0.0)
    lengths = (spectrum * n[:, None]).sqrt()[:, :rank, None]
    axes = vectors.mT[:, :rank] @ centred
    return spectrum, torch.where(lengths > 0, axes / lengths, 0.0)


def _covariance_share(total: Tensor, squares: Tensor, n: Tensor, size: int) -> Tensor:
    """Return κ, (pages,), of covariances with these traces and traces of their squares."""
    spread = (n + 1 - 2 / size) * (squares - total.square() / size)
    sphericity = ((1 - 2 / size) * squares + total.square()) / spread
    oracle = torch.where(spread > 0, sphericity, 1.0).clamp(max=1)
    return (1 - oracle) * (n - 1) / (n + PRIOR)
