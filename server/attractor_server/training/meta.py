"""Meta-training: gradient descent through both loops, on the error of what is read (claims 15, 16, 19)."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.reader import descend
from attractor_server.energy.writer import write
from attractor_server.errors import SettingsError
from attractor_server.training.episodes import Cues, Dataset, distort, draw_shape
from attractor_server.training.recipe import OptimizerTable, Recipe

WARM_UP = 50
_STATE = "state.pt"


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    share: float
    """Of the whole run, 0 to 1"""
    loss: float
    """Smoothed mean squared error of what was read"""
    skipped: int
    """Steps left out because their meta-gradient was not finite"""


class Trainer:
    """One run of a recipe: its parameters, its optimiser and its randomness, saved and resumed together."""

    def __init__(self, recipe: Recipe, network: EnergyNetwork, start: Parameters, data: Dataset) -> None:
        self._recipe = recipe
        self._network = network
        self._data = data
        self._learned: Tensors = {name: value.clone().requires_grad_() for name, value in start.flat().items()}
        self._optimizer = _optimizer(self._learned, recipe.optimizer)
        self._generator = Generator().manual_seed(recipe.seed)
        self._step, self._skipped, self._elapsed_s, self._loss = 0, 0, 0.0, math.nan

    @property
    def parameters(self) -> Parameters:
        """What has been learned so far."""
        return Parameters.of({name: value.detach() for name, value in self._learned.items()})

    def run(self, *, budget_s: float, each_step: Callable[[Progress], None]) -> None:
        """Trains until the recipe's steps are done or the time is up; rates decay towards whichever comes first."""
        while (share := max(self._step / self._recipe.optimizer.steps, self._elapsed_s / budget_s)) < 1:
            started_s = time.monotonic()
            self._advance(share)
            self._elapsed_s += time.monotonic() - started_s
            each_step(Progress(self._step, share, self._loss, self._skipped))

    def save(self, run_dir: Path) -> None:
        """Writes all that `resume` needs, in one move."""
        state = {
            "recipe": self._recipe.as_record(),
            "learned": self.parameters.flat(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "counts": (self._step, self._skipped, self._elapsed_s, self._loss),
        }
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=run_dir, prefix=".saving-") as folder:
            torch.save(state, Path(folder) / _STATE)
            os.replace(Path(folder) / _STATE, run_dir / _STATE)

    def resume(self, run_dir: Path) -> bool:
        """Goes on where `save` left off; False if nothing was saved there.

        Raises:
            SettingsError: what was saved there is a run of another recipe.
        """
        path = run_dir / _STATE
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        if state["recipe"] != self._recipe.as_record():
            raise SettingsError(f"{run_dir} holds a run of another recipe; expected this one, or an empty folder")
        for name, value in state["learned"].items():
            self._learned[name].data.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._step, self._skipped, self._elapsed_s, self._loss = state["counts"]
        return True

    def _advance(self, share: float) -> None:
        scale = _schedule(self._step, share, self._recipe.optimizer)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * scale
        self._optimizer.zero_grad()
        loss = self._episode_loss(Parameters.of(self._learned))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._learned.values(), self._recipe.optimizer.gradient_limit)
        if torch.isfinite(norm):
            self._optimizer.step()
            self._loss = loss.item() if math.isnan(self._loss) else 0.98 * self._loss + 0.02 * loss.item()
        else:
            self._skipped += 1
        self._step += 1

    def _episode_loss(self, parameters: Parameters) -> Tensor:
        """Error of what is read at the end, averaged with that at a random moment before it."""
        table, generator = self._recipe.episodes, self._generator
        memories, count, chunks = draw_shape(table, generator)
        patterns = self._data.sample(memories, count, generator)
        moments = write_chunks(self._network, parameters, patterns, chunks)
        chosen = [moments[-1]]
        if len(moments) > 1:
            chosen.append(moments[int(torch.randint(len(moments) - 1, (), generator=generator))])
        losses = []
        for fast, done in chosen:
            cues = distort(patterns[:, :done], table, generator)
            losses.append(reading_loss(self._network, parameters, fast, cues, patterns[:, :done]))
        return torch.stack(losses).mean()


def write_chunks(
    network: EnergyNetwork, parameters: Parameters, patterns: Tensor, chunks: Sequence[int]
) -> list[tuple[Tensors, int]]:
    """The fast weights after each chunk of patterns (memories, n, d), with the number of patterns written by then."""
    fast, done = parameters.memories(len(patterns)), 0
    moments = []
    for size in chunks:
        present = torch.ones(len(patterns), size, dtype=torch.bool)
        stored = torch.full((len(patterns),), done)
        chunk = patterns[:, done : done + size]
        fast = write(network, parameters, fast, chunk, present=present, stored=stored)
        done += size
        moments.append((fast, done))
    return moments


def reading_loss(network: EnergyNetwork, parameters: Parameters, fast: Tensors, cues: Cues, patterns: Tensor) -> Tensor:
    """Mean squared error between the patterns and what their cues lead to."""
    iterates = descend(network, parameters, fast, cues.x, known=cues.known, steps=parameters.reading_steps)
    return (iterates[-1] - patterns).square().mean()


def _optimizer(learned: Tensors, table: OptimizerTable) -> torch.optim.Optimizer:
    loops = [value for name, value in learned.items() if name.startswith(("reader.", "writer."))]
    weights = [value for name, value in learned.items() if not name.startswith(("reader.", "writer."))]
    groups = [{"params": weights, "lr": table.rate}, {"params": loops, "lr": table.loop_rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _schedule(step: int, share: float, table: OptimizerTable) -> float:
    """Warm-up, plateau, and a straight line down to nothing at the end."""
    return min(1.0, (step + 1) / WARM_UP, (1 - share) / (1 - table.decay_from))
