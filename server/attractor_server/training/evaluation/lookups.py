"""Look-ups of kept patterns with the metric that is best for a cue, by the cue and by what was read from it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.fields import Layout
from attractor_server.training.baselines.slots import compute_squared_distances
from attractor_server.training.evaluation.bench import Bench, Probe, right_entries
from attractor_server.training.evaluation.codecs import PATTERNS, Components
from attractor_server.training.evaluation.scores import Method, Row, Table, row_of
from attractor_server.training.metrics import auroc
from attractor_server.training.validation import fill_gaps, recall

POWERS, COMPONENTS = (0.3, 0.5, 0.7, 1.0), (64, 128, 256, 400)
KEPT = (0.3, 0.5, 0.7, 0.9)
"""Shares of the entries, those that fit best, which a trimmed distance adds up"""

Lookup = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From given values (m, d), which of them are right (m, d), and items (n, d) to how near they are, (m, n)"""


def components_of(bench: Bench) -> Components:
    """Return the principal components of training patterns as look-ups compare them."""
    return Components.of(_spread(bench.training.pool(PATTERNS), bench.training.layout))


def lookup_rows(  # noqa: PLR0913
    bench: Bench, probe: Probe, rehearsal: Probe, fast: Tensors, components: Components, *, table: Table = "quality"
) -> Iterator[Row]:
    """Yield each look-up of the cue, and of what the written memories read from it; tuned on the rehearsal's cues.

    The AUROC is that of how near the nearest pattern is. Bytes are those of one pattern.
    """
    model, layout = bench.model, bench.tested.layout
    kept = _spread(probe.patterns, layout)
    sources = {"cue": [(probe.filled_cues, probe.given), (fill_gaps(model, probe.unseen), right_entries(probe.unseen))]}
    readings = (recall(model, fast, cues) for cues in (probe.cues, probe.unseen))
    sources["answer"] = [(read, torch.zeros_like(read, dtype=torch.bool)) for read in readings]
    for name, choices in lookups(components).items():
        lookup = _tune(choices, rehearsal, layout)
        for of, asked in sources.items():
            own, others = (_ask(lookup, kept, _spread(x, layout), right, layout) for x, right in asked)
            places = own.argmax(-1)[..., None].expand(*own.shape[:2], probe.patterns.shape[-1])
            method = Method(name=f"{name}, of the {of}", family="rival", bytes=4 * probe.patterns[0].numel())
            row = row_of(bench, probe, method, probe.patterns.gather(1, places), table=table)
            yield replace(row, auroc=auroc(own.max(-1).values, others.max(-1).values))


def lookups(components: Components) -> Mapping[str, Sequence[Lookup]]:
    """Return look-ups by name, each with the settings among which it is tuned."""
    deviations = components.codes.square().mean(0).sqrt().clamp_min(1e-6)
    most = len(deviations)
    leading = sorted({min(number, most) for number in COMPONENTS})
    whitened = [
        Whitened(components.mean, components.basis[:number].T / deviations[:number] ** power)
        for power, number in product(POWERS, leading)
    ]
    return {
        "Euclid": [lambda values, given, items: -compute_squared_distances(values, items, given)],
        "Manhattan": [lambda values, given, items: -_differences(values, given, items).sum(-1)],
        "whitened cosine": whitened,
        "trimmed": [Trimmed(share) for share in KEPT],
    }


@dataclass(frozen=True)
class Whitened:
    """Cosine of principal components, each divided by a power of its deviation."""

    mean: Tensor
    basis: Tensor
    """(d, components)"""

    def __call__(self, values: Tensor, given: Tensor, items: Tensor) -> Tensor:
        """Return cosines (m, n); which values are right does not matter."""
        own, others = (normalize((x - self.mean) @ self.basis, dim=-1) for x in (values, items))
        return own @ others.mT


@dataclass(frozen=True)
class Trimmed:
    """Squared distance over the share of the entries that fit best."""

    share: float

    def __call__(self, values: Tensor, given: Tensor, items: Tensor) -> Tensor:
        """Return negative distances (m, n)."""
        count = max(1, round(self.share * items.shape[-1]))
        squares = _differences(values, given, items).square()
        return -squares.topk(count, largest=False, sorted=False).values.sum(-1)


def _tune(choices: Sequence[Lookup], rehearsal: Probe, layout: Layout) -> Lookup:
    """Return the look-up that finds most of the rehearsal's patterns by their cues."""
    if len(choices) == 1:
        return choices[0]
    kept, cues = (_spread(x, layout) for x in (rehearsal.patterns, rehearsal.filled_cues))
    right = torch.arange(rehearsal.count)

    def hits(lookup: Lookup) -> int:
        return int((_ask(lookup, kept, cues, rehearsal.given, layout).argmax(-1) == right).sum())

    return max(choices, key=hits)


def _ask(lookup: Lookup, kept: Tensor, values: Tensor, right: Tensor, layout: Layout) -> Tensor:
    """Return how near each kept pattern is to each of the values, (memories, cues, kept)."""
    compared = _spread_mask(right | ~right.any(-1, keepdim=True), layout)
    return torch.stack([lookup(*one) for one in zip(values, compared, kept, strict=True)])


def _spread(values: Tensor, layout: Layout) -> Tensor:
    """Return values (…, values) as numbers to compare: characters as one-hot rows."""
    parts = []
    for field, span in layout.spans:
        part = values[..., span]
        parts.append(one_hot(part.long(), len(field.alphabet)).float().flatten(-2) if field.has_codes else part)
    return torch.cat(parts, -1)


def _spread_mask(mask: Tensor, layout: Layout) -> Tensor:
    widths = [len(field.alphabet) if field.has_codes else 1 for field in layout.fields]
    parts = [
        mask[..., span].repeat_interleave(width, -1) for (_, span), width in zip(layout.spans, widths, strict=True)
    ]
    return torch.cat(parts, -1)


def _differences(values: Tensor, given: Tensor, items: Tensor) -> Tensor:
    """Return absolute differences (m, n, d), 0 where a value is not given."""
    return (values[:, None] - items).abs() * given[:, None]
