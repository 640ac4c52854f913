"""Rows of recall in which the kept patterns take part: the posterior, beside the network alone."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from attractor_server.training.evaluation.bench import Bench, Probe
from attractor_server.training.evaluation.scores import Method, Row, Table, average_over_memories, row_of
from attractor_server.training.kept import recall_kept
from attractor_server.training.metrics import auroc
from attractor_server.training.validation import write_memories

POSTERIOR = "posterior"


def posterior_rows(bench: Bench, probe: Probe, *, table: Table = "quality") -> Iterator[Row]:
    """Yield the posterior's row, where the model has one.

    The kept pattern that is most probable counts as identified. Bytes are those of the page and of the kept patterns.
    """
    model, patterns = bench.model, probe.patterns
    if model.posterior is None:
        return
    fast = write_memories(model, patterns, model.write_chunk, framed=True)
    stored, unseen = (recall_kept(model, model.posterior, fast, patterns, cues) for cues in (probe.cues, probe.unseen))
    method = Method(name=POSTERIOR, family="memory", bytes=model.page_bytes + 4 * patterns[0].numel())
    found = stored.matches.argmax(-1) == torch.arange(probe.count)
    identified, interval = average_over_memories(found.float().mean(1).tolist())
    yield replace(
        row_of(bench, probe, method, stored.answers, table=table),
        identified=identified,
        identified_interval=interval,
        auroc=auroc(stored.known, unseen.known),
        called_known=float((stored.known > 0.5).float().mean()),
        unseen_called_known=float((unseen.known > 0.5).float().mean()),
    )
