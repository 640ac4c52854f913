"""A mixture of distortions that nobody is told of: the memory beside look-ups with the metric that is best for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from attractor_server.training.baselines.slots import compute_squared_distances
from attractor_server.training.datasets import Source
from attractor_server.training.evaluation.bench import TEST_SEED, TUNING_MEMORIES, TUNING_SEED, Bench, Probe
from attractor_server.training.evaluation.codecs import PATTERNS, Components
from attractor_server.training.evaluation.kept import posterior_rows
from attractor_server.training.evaluation.scores import Family, Method, Row, measure_auroc, row_of
from attractor_server.training.recipe import CueTable, DistortionTable
from attractor_server.training.validation import recall, write_memories

NAME = "a mixture of kinds"
SIDE = 28
"""Side of an image for which the distortions below are meant; others have them in proportion"""
POWERS, COMPONENTS = (0.3, 0.5, 0.7, 1.0), (64, 128, 256, 400)
KEPT = (0.3, 0.5, 0.7, 0.9)
"""Shares of the entries, those that fit best, which a trimmed distance adds up"""

Lookup = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From given values (m, d), which of them are right (m, d), and items (n, d) to how near they are, (m, n)"""


def mixture_of(source: Source) -> Sequence[CueTable]:
    """Return the mixture for a source: five kinds for images, else two, and drifts where other wordings are known."""
    (field, *_) = source.layout.fields
    if not field.traits.has_area:
        vectors = [CueTable(kind="missing", amount=0.5), CueTable(kind="noise", amount=0.05)]
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


def mixture_rows(bench: Bench) -> Iterator[Row]:
    """Yield for each number of patterns the memory, and each look-up of the cue and of what the memory read from it.

    Look-ups are tuned on mixtures of training memories, at each number of patterns.
    """
    components = Components.of(bench.training.pool(PATTERNS))
    for count in bench.counts:
        probe = mixture_probe(bench, count)
        fast = write_memories(bench.model, probe.patterns, bench.model.write_chunk)
        read = recall(bench.model, fast, probe.cues)
        row = row_of(bench, probe, _method("memory", bench.model.page_bytes, "memory"), read, table="mixture")
        yield replace(row, auroc=measure_auroc(bench, fast, probe))
        yield from posterior_rows(bench, probe, table="mixture")
        rehearsal = rehearse_mixture(bench, count)
        size = 4 * probe.patterns[0].numel()
        for name, choices in lookups(components).items():
            lookup = max(choices, key=lambda one: float(_hits(rehearsal, one, rehearsal.filled_cues, rehearsal.given)))
            for of, values, given in (("cue", probe.filled_cues, probe.given), ("answer", read, None)):
                answers = probe.patterns.gather(1, _find(probe, lookup, values, given)[..., None].expand_as(read))
                yield row_of(bench, probe, _method(f"{name}, of the {of}", size, "rival"), answers, table="mixture")


def mixture_probe(bench: Bench, count: int) -> Probe:
    """Return test memories of `count` patterns with cues of the mixture, always the same ones."""
    return bench.draw(bench.tested, mixture_of(bench.tested), count, bench.memories, TEST_SEED, name=NAME)


def rehearse_mixture(bench: Bench, count: int) -> Probe:
    """Return training memories of `count` patterns with cues of the mixture, to tune look-ups on."""
    return bench.draw(bench.training, mixture_of(bench.training), count, TUNING_MEMORIES, TUNING_SEED, name=NAME)


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


def _differences(values: Tensor, given: Tensor, items: Tensor) -> Tensor:
    """Return absolute differences (m, n, d), 0 where a value is not given."""
    return (values[:, None] - items).abs() * given[:, None]


def _find(probe: Probe, lookup: Lookup, values: Tensor, given: Tensor | None) -> Tensor:
    """Return the index of the pattern that is nearest to each of the values, (memories, cues)."""
    right = torch.ones_like(values, dtype=torch.bool) if given is None else given | ~given.any(-1, keepdim=True)
    found = [lookup(*one).argmax(-1) for one in zip(values, right, probe.patterns, strict=True)]
    return torch.stack(found)


def _hits(probe: Probe, lookup: Lookup, values: Tensor, given: Tensor) -> Tensor:
    return (_find(probe, lookup, values, given) == torch.arange(probe.count)).float().mean()


def _method(name: str, size: int, family: Family) -> Method:
    return Method(name=name, family=family, bytes=size)
