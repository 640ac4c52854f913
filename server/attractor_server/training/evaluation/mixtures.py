"""A mixture of distortions that nobody is told of: the memory beside look-ups with the metric that is best for it."""

from collections.abc import Iterator
from dataclasses import replace

from attractor_server.training.evaluation.bench import TEST_SEED, TUNING_MEMORIES, TUNING_SEED, Bench, Probe
from attractor_server.training.evaluation.kept import posterior_rows
from attractor_server.training.evaluation.lookups import components_of, lookup_rows
from attractor_server.training.evaluation.scores import Method, Row, measure_auroc, row_of
from attractor_server.training.mixture import mixture_of
from attractor_server.training.validation import recall, write_memories

NAME = "a mixture of kinds"


def mixture_rows(bench: Bench, *, lookups: bool = True) -> Iterator[Row]:
    """Yield for each number of patterns the memory, and each look-up of the cue and of what the memory read from it.

    Look-ups are tuned on mixtures of training memories, at each number of patterns.
    """
    components = components_of(bench) if lookups else None
    for count in bench.counts:
        probe = mixture_probe(bench, count)
        fast = write_memories(bench.model, probe.patterns, bench.model.write_chunk, framed=True)
        read = recall(bench.model, fast, probe.cues)
        method = Method(name="memory", family="memory", bytes=bench.model.page_bytes)
        row = row_of(bench, probe, method, read, table="mixture")
        yield replace(row, auroc=measure_auroc(bench, fast, probe))
        yield from posterior_rows(bench, probe, table="mixture")
        if components is not None:
            yield from lookup_rows(bench, probe, rehearse_mixture(bench, count), fast, components, table="mixture")


def mixture_probe(bench: Bench, count: int) -> Probe:
    """Return test memories of `count` patterns with cues of the mixture, always the same ones."""
    return bench.draw(bench.tested, mixture_of(bench.tested), count, bench.memories, TEST_SEED, name=NAME)


def rehearse_mixture(bench: Bench, count: int) -> Probe:
    """Return training memories of `count` patterns with cues of the mixture, to tune look-ups on."""
    return bench.draw(bench.training, mixture_of(bench.training), count, TUNING_MEMORIES, TUNING_SEED, name=NAME)
