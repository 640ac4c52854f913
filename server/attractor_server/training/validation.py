"""Figures on held-out patterns, with the same episodes each time, and the calibration fitted to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Generator, Tensor

from attractor_server.energy.familiarity import Calibration
from attractor_server.energy.frame import Frames, is_frame, weights_of
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import read
from attractor_server.energy.writer import delta_energy
from attractor_server.training.baselines import Ridge, look_up
from attractor_server.training.datasets import Source
from attractor_server.training.datasets.alike import Alike
from attractor_server.training.distortions import Cues, distort
from attractor_server.training.episodes import split_into_chunks, write_chunks
from attractor_server.training.metrics import SCORES, auroc, identification_rate
from attractor_server.training.recipe import CueTable, DataTable, Recipe

MEMORIES = 16


@dataclass(frozen=True, kw_only=True)
class Task:
    """Setting of a validation: memories of `count` patterns, written in chunks, read by cues of some kinds."""

    data: DataTable
    cues: Sequence[CueTable]
    count: int
    chunk: int = 1
    memories: int = MEMORIES
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """Memories of patterns, cues for these, and cues of patterns that are not stored; (memories, count, values)."""

    patterns: Tensor
    cues: Cues
    unseen: Cues


def draw_trial(source: Source, task: Task) -> Trial:
    """Draw the trial of a task, always the same one; unseen patterns are of other classes than stored ones."""
    generator = Generator().manual_seed(task.seed)
    patterns, unseen = source.sample(task.memories, 2 * task.count, generator).chunk(2, 1)
    cues, unseen_cues = (
        distort(x, source.layout, task.cues, generator, drifts=source.drifts) for x in (patterns, unseen)
    )
    return Trial(patterns, cues, unseen_cues)


def validate(model: Model, source: Source, task: Task, *, ridge: Ridge | None = None) -> dict[str, float]:
    """Return the task's metric for the memory and its rivals, identification rates, and the AUROC of ΔE."""
    trial = draw_trial(source, task)
    fast = write_memories(model, trial.patterns, task.chunk)
    empty = model.parameters.memories(task.memories)
    answers = {
        "cue": fill_gaps(model, trial.cues),
        "recalled": recall(model, fast, trial.cues),
        "no_write": recall(model, empty, trial.cues),
    }
    answers["nearest"] = look_up(answers["cue"], trial.patterns)
    if ridge is not None:
        answers["ridge"] = ridge.restore(answers["cue"])
    figures = {f"{task.data.metric}_{name}": score(model, task.data, x, trial.patterns) for name, x in answers.items()}
    for name in ("cue", "recalled"):
        figures[f"id_{name}"] = identification_rate(
            *(select_judged_values(model, task.data, x) for x in (answers[name], trial.patterns))
        )
    own, other = (familiarity(model, fast, cues) for cues in (trial.cues, trial.unseen))
    return {**figures, "auroc": auroc(-own, -other)}


def write_memories(model: Model, patterns: Tensor, chunk: int, *, framed: bool = False) -> Tensors:
    """Return the fast weights of memories after writing patterns (memories, n, values) in chunks.

    With `framed` each sees them in its own metric, as a server has it by default; its frames are among the tensors.
    """
    with torch.no_grad():
        there = patterns.to(model.device)
        present = torch.ones(patterns.shape[:2], dtype=torch.bool, device=model.device)
        own = model.fit_frames(there, present=present) if framed else {}
        chunks = split_into_chunks(patterns.shape[1], chunk)
        x = model.encode(there, find_frames(model, own))
        return {**write_chunks(model.network, model.parameters, x, chunks), **own}


def find_frames(model: Model, tensors: Tensors) -> Frames | None:
    """Return the frames among the tensors of memories; None where they have none."""
    return model.frames_of(tensors) if any(map(is_frame, tensors)) else None


def recall(model: Model, fast: Tensors, cues: Cues, *, steps: int = 0) -> Tensor:
    """Return the recalled patterns as users see them, (memories, cues, values)."""
    with torch.no_grad():
        there = cues.to(model.device)
        frames = find_frames(model, fast)
        hold = model.hold(there.values, there.known, frames) if bool(cues.known.any()) else None
        x = model.encode(there.values, frames)
        found = read(model.network, model.parameters, weights_of(fast), x, hold=hold, steps=steps).pattern
        values = model.decode(found, frames)
    return torch.where(cues.known, cues.values, values.to(cues.values.device))


def familiarity(model: Model, fast: Tensors, cues: Cues) -> Tensor:
    """Return ΔE of the cues, (memories, cues)."""
    with torch.no_grad():
        x = model.encode(cues.values.to(model.device), find_frames(model, fast))
        return delta_energy(model.network, model.parameters, weights_of(fast), x).to(cues.values.device)


def fill_gaps(model: Model, cues: Cues) -> Tensor:
    """Return the cues with the mean of the training data where an entry is missing."""
    values = cues.values
    means = model.decode(model.encode(values.to(model.device))).to(values.device)
    return torch.where(values.isnan(), means, values)


def select_judged_values(model: Model, data: DataTable, values: Tensor) -> Tensor:
    """Return the part of values (…, values) that the metric judges, in its units: images from −1 to 1."""
    parts = []
    for field, span in model.layout.spans:
        if data.field in ("", field.name):
            factor, offset = field.traits.judged or (1.0, 0.0)
            parts.append(factor * values[..., span] + offset)
    return torch.cat(parts, -1)


def score(model: Model, data: DataTable, values: Tensor, truth: Tensor) -> float:
    """Return the mean of the metric over all patterns."""
    found, wanted = (select_judged_values(model, data, x) for x in (values, truth))
    return float(SCORES[data.metric](found, wanted).mean())


def fit_ridge(
    source: Source, cues: Sequence[CueTable], fill: Callable[[Cues], Tensor], *, rounds: int = 3, seed: int = 0
) -> Ridge:
    """Fit the memoryless denoiser to training patterns, each distorted `rounds` times and filled by `fill`."""
    generator = Generator().manual_seed(seed)
    patterns = source.pool(8192).repeat(rounds, 1)[None]
    made = distort(patterns, source.layout, cues, generator, drifts=source.drifts)
    return Ridge.fit(fill(made)[0], patterns[0])


CALIBRATION_MEMORIES = 32
ALIKE_SHARE, CENTRES = 0.5, (1, 4)
"""Share of memories of vectors that are alike, among those that the calibration of frames is fitted to, and how many
each of them are drawn towards"""


def calibrate(model: Model, source: Source, recipe: Recipe) -> Calibration:
    """Fit a logistic regression to ΔE of cues of stored and of unseen patterns, in memories of several sizes."""
    return _fit_calibration(model, [source], recipe, recipe.cues, framed=False)


def calibrate_own(model: Model, source: Source, recipe: Recipe) -> Calibration | None:
    """Fit as `calibrate` does in pages with frames, of vectors that are alike and of others.

    Cues are whole vectors, too: those that were never stored are what is mistaken most easily. None where the model has
    no vectors.
    """
    if not model.frame_spans:
        return None
    whole = recipe.cues[0].model_copy(update={"kind": "noise", "amount": 0.0, "share": 1.0})
    alike = [Alike(source, ALIKE_SHARE, centres) for centres in CENTRES]
    return _fit_calibration(model, alike, recipe, [*recipe.cues, whole], framed=True)


def _fit_calibration(
    model: Model, sources: Sequence[Source], recipe: Recipe, cues: Sequence[CueTable], *, framed: bool
) -> Calibration:
    from sklearn.linear_model import LogisticRegression

    features, truth = [], []
    sizes = enumerate(sorted({max(1, recipe.capacity // part) for part in (8, 4, 2, 1)}))
    for (seed, count), source in product(sizes, sources):
        task = Task(data=recipe.data, cues=cues, count=count, memories=CALIBRATION_MEMORIES, seed=100 + seed)
        trial = draw_trial(source, task)
        fast = write_memories(model, trial.patterns, model.write_chunk if framed else 1, framed=framed)
        for asked, stored in ((trial.cues, 1.0), (trial.unseen, 0.0)):
            delta = familiarity(model, fast, asked).flatten()
            columns = [delta, torch.full_like(delta, count).log1p()]
            if framed:
                columns.append((~asked.values.isnan()).float().mean(-1).flatten())
            features.append(torch.stack(columns, 1))
            truth.append(torch.full_like(delta, stored))
    table, labels = torch.cat(features), torch.cat(truth)
    scale = table.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=100.0, max_iter=1000).fit((table / scale).numpy(), labels.numpy())
    weights = torch.tensor(fitted.coef_[0], dtype=torch.float32) / scale
    return Calibration(torch.cat([torch.tensor(fitted.intercept_, dtype=torch.float32), weights]))
