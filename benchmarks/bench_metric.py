"""How well are vectors that are alike recalled: in the model's metric, and each page in its own?

Test sentences as `embedding-384` and `binding-384` know them, made alike in three ways that real collections are: drawn
towards one of them, as notes on one subject; cliques of nearest neighbours; and drawn towards one of four, all in one
memory. 32 of them in a page, 128 in four, written in the groups that the model is written in, and read alone: no kept
pattern takes part. Figures: the share of exact vectors that are answered by something nearest to their own item; the
cosine of the answer to it; the same share of a binding's values, of exact keys; how surely ΔE tells stored vectors from
unseen ones that are as alike (AUROC); and the shares of stored and of unseen ones that are called familiar (p > 0.5).
Means of `--memories` memories a row, with 95 % intervals; the same vectors for both.

    python benchmarks/bench_metric.py
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from _report import machine
from torch import Generator, Tensor
from torch.nn.functional import normalize

from attractor_server.energy.familiarity import choice_of
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy, write
from attractor_server.training.datasets import load_dataset
from attractor_server.training.evaluation.scores import average_over_memories
from attractor_server.training.metrics import auroc
from attractor_server.training.model_lookup import open_model

PAGE = 32
RESULTS = Path(__file__).parent / "results" / "bench_metric.json"
Draw: TypeAlias = Callable[[Tensor, int, Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of one memory."""

    own_item: float
    cosine: float
    binding: float
    auroc: float
    familiar: float
    """Share of stored vectors that are called familiar (p > 0.5)"""
    strange: float
    """Share of unseen vectors that are"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--memories", type=int, default=16)
    arguments.add_argument("--split", choices=("train", "validation", "test"), default="test", help="sentences to use")
    arguments.add_argument("--results", type=Path, default=RESULTS)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    command = " ".join(["python", "benchmarks/bench_metric.py", *sys.argv[1:]])
    lines = []
    for kind, draw in DRAWS.items():
        for count in (PAGE, 4 * PAGE):
            for metric in ("model", "own"):
                row = {"vectors": kind, "patterns": count, "metric": metric} | measure(draw, count, metric, given)
                print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                lines.append(json.dumps(row | {"machine": machine(), "command": command}))
    given.results.write_text("\n".join(lines) + "\n")


def measure(draw: Draw, count: int, metric: str, given: argparse.Namespace) -> dict[str, Sequence[float]]:
    """Return the mean and the half interval of each figure."""
    pool = load_dataset("sentences", given.split).pool(2000)
    models = open_model("embedding-384"), open_model("binding-384")
    with torch.no_grad():
        seen = [
            measure_memory(*models, draw(pool, 2 * count, Generator().manual_seed(seed)), own=metric == "own")
            for seed in range(given.memories)
        ]
    names = asdict(seen[0])
    return {
        name: [round(one, 4) for one in average_over_memories([asdict(figures)[name] for figures in seen])]
        for name in names
    }


def measure_memory(embedding: Model, binding: Model, vectors: Tensor, *, own: bool) -> Figures:
    """Store one half of the vectors (2n, d), and ask for it; the other half stays unseen."""
    stored, unseen = vectors.chunk(2)
    pages = stored.view(-1, PAGE, stored.shape[1])
    memory = Memory(embedding, pages, own=own)
    answers, gaps = memory.ask(stored)
    others = memory.ask(unseen)[1]
    values = pages.roll(1, 1)
    found, _ = Memory(binding, torch.cat([pages, values], -1), own=own).ask(
        torch.cat([stored, torch.full_like(stored, torch.nan)], 1)
    )
    told = found[:, stored.shape[1] :]
    truth = values.flatten(0, 1)
    return Figures(
        own_item=share_nearest(answers, stored),
        cosine=float((normalize(answers, dim=1) * stored).sum(1).mean()),
        binding=share_nearest(told, truth),
        auroc=auroc(-gaps, -others),
        familiar=memory.share_familiar(gaps),
        strange=memory.share_familiar(others),
    )


class Memory:
    """Pages of patterns (pages, n, values), each in its own metric, or all in the model's."""

    def __init__(self, model: Model, pages: Tensor, *, own: bool) -> None:
        self._model = model
        present = torch.ones(pages.shape[:2], dtype=torch.bool)
        self._frames = model.frames_of(model.fit_frames(pages, present=present)) if own else None
        self._calibration = model.calibration_of(framed=own)
        self._stored = torch.full((len(pages),), pages.shape[1])
        self._fast = self._write(model.encode(pages, self._frames))

    def ask(self, cues: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers to cues (n, values), each read in the page that most probably holds it, and their ΔE."""
        model, count = self._model, torch.arange(len(cues))
        x = model.encode(cues.expand(len(self._stored), *cues.shape), self._frames)
        gaps = delta_energy(model.network, model.parameters, self._fast, x)
        page = choice_of(gaps, self._stored, self._calibration).page
        values = model.decode(read(model.network, model.parameters, self._fast, x).pattern, self._frames)
        return values[page, count], gaps[page, count]

    def share_familiar(self, gaps: Tensor) -> float:
        """Return the share of whole cues whose probability to be stored, in any page, is above a half."""
        assert self._calibration is not None
        held = self._stored[:1].expand(len(gaps))
        logit = self._calibration.logit(gaps[:, None], held, torch.ones(()))[:, 0] - math.log(len(self._stored))
        return float((logit > 0).float().mean())

    def _write(self, x: Tensor) -> Tensors:
        model = self._model
        fast = model.parameters.memories(len(x))
        for start in range(0, x.shape[1], model.write_chunk):
            part = x[:, start : start + model.write_chunk]
            before = torch.full((len(x),), start)
            present = torch.ones(part.shape[:2], dtype=torch.bool)
            fast = write(model.network, model.parameters, fast, part, present=present, stored=before)
        return fast


def share_nearest(answers: Tensor, truth: Tensor) -> float:
    """Return the share of answers (n, d) that are nearest, by cosine, to the vector in their own place."""
    nearest = (normalize(answers, dim=1) @ truth.T).argmax(1)
    return float((nearest == torch.arange(len(truth))).float().mean())


def draw_some(pool: Tensor, count: int, generator: Generator) -> Tensor:
    return pool[torch.randperm(len(pool), generator=generator)[:count]]


def draw_towards_one(share: float) -> Draw:
    def draw(pool: Tensor, count: int, generator: Generator) -> Tensor:
        one, *_ = draw_some(pool, 1, generator)
        return normalize((1 - share) * draw_some(pool, count, generator) + share * one, dim=1)

    return draw


def draw_clique(pool: Tensor, count: int, generator: Generator) -> Tensor:
    near = (pool @ draw_some(pool, 1, generator)[0]).argsort(descending=True)[:count]
    some = pool[near[torch.randperm(count, generator=generator)]]
    return normalize(0.75 * some + 0.25 * some.mean(0), dim=1)


def draw_towards_four(pool: Tensor, count: int, generator: Generator) -> Tensor:
    centres = draw_some(pool, 4, generator)[torch.randint(4, (count,), generator=generator)]
    return normalize(0.55 * draw_some(pool, count, generator) + 0.45 * centres, dim=1)


DRAWS: dict[str, Draw] = {
    "as they are": draw_some,
    "45 % towards one": draw_towards_one(0.45),
    "60 % towards one": draw_towards_one(0.6),
    "cliques, 25 % towards their mean": draw_clique,
    "45 % towards one of four": draw_towards_four,
}


if __name__ == "__main__":
    main()
