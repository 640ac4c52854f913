"""How much do kept patterns bring to recall, beside the network alone and beside look-ups with the best metric?

Every kind of cue of each model's recipe, a mixture of kinds that nobody is told of, and noisy copies of few things; at
rated capacity and twice that. The memory is written as a server writes it, each page in its own metric, and nothing is
told but what the recipe's masks tell. Look-ups (Euclid, Manhattan, whitened cosine, trimmed) are of the cue and of what
the network read from it, each tuned on training memories with such cues. Figures: the model's metric; the share of cues
of which the right pattern is found; how surely stored patterns are told from unseen ones (AUROC of ΔE, of the
posterior's probability, of the look-up's distance); the shares of stored and of unseen ones that are called known (p
above one half). Of noisy copies the error is to the clean thing.

    python benchmarks/bench_posterior.py
    python benchmarks/bench_posterior.py glyphs-28-small --split validation --memories 8
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from _report import machine

from attractor_server.training.copies import draw_observed
from attractor_server.training.evaluation.bench import TEST_SEED, TUNING_MEMORIES, Bench, cue_name
from attractor_server.training.evaluation.kept import posterior_rows
from attractor_server.training.evaluation.lookups import components_of, lookup_rows
from attractor_server.training.evaluation.mixtures import mixture_rows
from attractor_server.training.evaluation.scores import (
    Method,
    Row,
    average_over_memories,
    measure_auroc,
    row_of,
    scores,
)
from attractor_server.training.kept import recall_kept
from attractor_server.training.metrics import HIGHER_IS_BETTER, auroc
from attractor_server.training.model_lookup import SHIPPED, open_model
from attractor_server.training.recipe import CueTable
from attractor_server.training.validation import Task, recall, write_memories

COPIES = 8, 4, 16
RESULTS = Path(__file__).parent / "results" / "bench_posterior.json"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("models", nargs="*", default=sorted(path.stem for path in SHIPPED.glob("*.safetensors")))
    arguments.add_argument("--memories", type=int, default=16)
    arguments.add_argument("--split", choices=("train", "validation", "test"), default="test", help="data to use")
    arguments.add_argument("--no-lookups", action="store_true", help="memory and posterior alone: much faster")
    arguments.add_argument("--results", type=Path, default=RESULTS)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    command = " ".join(["python", "benchmarks/bench_posterior.py", *sys.argv[1:]])
    lines = []
    for name in given.models:
        start, model = time.monotonic(), open_model(name)
        bench = Bench.of(model, counts=(model.capacity, 2 * model.capacity), memories=given.memories, split=given.split)
        lookups = not given.no_lookups
        for rows in (quality_rows(bench, lookups=lookups), mixture_rows(bench, lookups=lookups), copies_rows(bench)):
            found = list(rows)
            show(found)
            lines += [json.dumps({**asdict(row), "machine": machine(), "command": command}) for row in found]
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    given.results.write_text("\n".join(lines) + "\n")


def quality_rows(bench: Bench, *, lookups: bool) -> Iterator[Row]:
    """Yield the network alone, the posterior and look-ups, for each kind of cue of the recipe."""
    components = components_of(bench) if lookups else None
    for cue, count in bench.settings():
        probe = bench.probe(cue, count)
        fast = write_memories(bench.model, probe.patterns, bench.model.write_chunk, framed=True)
        yield row_of(
            bench,
            probe,
            Method(name="network alone", family="memory", bytes=bench.model.page_bytes),
            recall(bench.model, fast, probe.cues),
            auroc=measure_auroc(bench, fast, probe),
        )
        yield from posterior_rows(bench, probe)
        if components is not None:
            rehearsal = bench.rehearsal(cue, count, memories=TUNING_MEMORIES)
            yield from lookup_rows(bench, probe, rehearsal, fast, components)


def copies_rows(bench: Bench) -> Iterator[Row]:
    """Yield the network alone and the posterior for noisy copies, where the recipe has noise: errors to the things."""
    for cue in (cue for cue in bench.recipe.cues if cue.kind == "noise"):
        for copies in COPIES:
            yield from _copies_rows(bench, cue, bench.model.capacity, copies)


def _copies_rows(bench: Bench, cue: CueTable, count: int, copies: int) -> Iterator[Row]:
    model = bench.model
    assert model.posterior is not None
    task = Task(data=bench.recipe.data, cues=[cue], count=count, memories=bench.memories, seed=TEST_SEED + copies)
    observed = draw_observed(bench.tested, task, copies)
    trial = observed.trial
    fast = write_memories(model, trial.patterns, model.write_chunk, framed=True)
    stored, unseen = (recall_kept(model, model.posterior, fast, trial.patterns, x) for x in (trial.cues, trial.unseen))
    thing = torch.arange(count) // copies
    for name, answers in (("network alone", recall(model, fast, trial.cues)), ("posterior", stored.answers)):
        value, interval = average_over_memories(scores(bench, observed.things, answers).mean(1).tolist())
        found = (thing[stored.matches.argmax(-1)] == thing).float().mean(1).tolist()
        identified, half = average_over_memories(found)
        row = Row(
            table="quality",
            model=model.name,
            cue=f"{cue_name(cue)}, {count // copies} × {copies} copies",
            count=count,
            method=name,
            family="memory",
            metric=bench.recipe.data.metric,
            value=value,
            interval=interval,
            identified=identified,
            identified_interval=half,
            bytes=model.page_bytes,
            memories=len(answers),
        )
        if name == "posterior":
            row = replace(
                row,
                auroc=auroc(stored.known, unseen.known),
                called_known=float((stored.known > 0.5).float().mean()),
                unseen_called_known=float((unseen.known > 0.5).float().mean()),
            )
        yield row


def show(rows: Sequence[Row]) -> None:
    """Print memory and posterior of each setting, and of its look-ups the one that finds most and the surest one."""
    for cue, count in dict.fromkeys((row.cue, row.count) for row in rows):
        some = [row for row in rows if (row.cue, row.count) == (cue, count)]
        chosen = [row for row in some if row.family == "memory"]
        if rivals := [row for row in some if row.family == "rival"]:
            sign = 1 if rivals[0].metric in HIGHER_IS_BETTER else -1
            chosen.append(max(rivals, key=lambda row: (row.identified, sign * row.value)))
            chosen.append(max(rivals, key=lambda row: row.auroc or 0.0))
        print(f"{chosen[0].model}, {cue}, N = {count}")
        for row in chosen:
            known = "" if row.called_known is None else f" known {row.called_known:.3f}, {row.unseen_called_known:.3f}"
            sure = "" if row.auroc is None else f" AUROC {row.auroc:.4f}"
            value = f"{row.metric} {row.value:.4f} ± {row.interval:.4f}"
            found = f"found {row.identified:.4f} ± {row.identified_interval:.4f}"
            print(f"    {row.method:32} {value}, {found}{sure}{known}", flush=True)


if __name__ == "__main__":
    main()
