"""Meta-training: gradient descent through both loops, on the error of what is read (claims 15, 16, 19)."""

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.transform import Transform
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import Source
from attractor_server.training.metagradient import MetaGradient
from attractor_server.training.objective import Objective
from attractor_server.training.recipe import OptimizerTable, Recipe
from attractor_server.training.workers import ALONE, Team, average_gradients

WARM_UP = 50

ERASER_RATE = 2e-3
"""The eraser starts where it works, and has few steps to learn in"""

_SMOOTHING = 0.98

_STRIDE = 0x9E3779B9
"""Between the seeds of a team's workers, and those of a run's plans: a generator of torch sees the lowest 32 bits, in
which all of either differ"""


@dataclass(frozen=True)
class Phase:
    """Part of training: an objective, and the parameters that it trains."""

    name: str
    objective: Objective
    learns: Callable[[str], bool]
    """Return whether the parameter of that name, as in `Parameters.flat`, is trained"""


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    step: int
    share: float
    """Share of the whole run, 0 to 1"""
    elapsed_s: float
    """Time spent in all sittings of the run"""
    loss: float
    """Smoothed error of recalled patterns, as a share of the data's variance"""
    familiarity: float
    """Smoothed logistic loss of ΔE"""
    skipped: int
    """Steps left out because their meta-gradient was not finite"""


_NOWHERE = Progress(0, 0.0, 0.0, math.nan, math.nan, 0)


class Trainer:
    """One phase of a recipe: its parameters, its optimiser and its randomness, saved and resumed together.

    Each worker of a team has one, with the same recipe and start, and calls the same methods in the same order. Each
    draws its own episodes; the parameters stay the same on all of them. The source is where the model is.
    """

    def __init__(self, recipe: Recipe, start: Model, source: Source, phase: Phase, team: Team = ALONE) -> None:
        self._recipe = recipe
        self._start = start
        self._source = source
        self._phase = phase
        self._team = team
        flat = start.parameters.flat()
        self._fixed = {name: value for name, value in flat.items() if not phase.learns(name)}
        self._learned: Tensors = {
            name: value.clone().requires_grad_() for name, value in flat.items() if phase.learns(name)
        }
        self._optimizer = _optimizer(self._learned, recipe.optimizer)
        self._gradient = self._make_gradient()
        self._generator = Generator(start.device).manual_seed(recipe.seed + team.rank * _STRIDE)
        self._progress = _NOWHERE

    @property
    def model(self) -> Model:
        """Model with the parameters learned so far."""
        learned = {name: value.detach() for name, value in self._learned.items()}
        return self._with_parameters({**self._fixed, **learned})

    @property
    def progress(self) -> Progress:
        """Progress of the run."""
        return self._progress

    def run(self, *, budget_s: float, each_step: Callable[[Progress], None]) -> None:
        """Train until the recipe's steps are done or the time of all sittings, `each_step` included, is up.

        A team's time is that of its worker 0, so that all end after the same step. The rates decay towards whichever
        comes first. With an infinite budget a resumed run equals an unbroken one.

        Raises:
            SettingsError: the budget is not positive.
        """
        if not budget_s > 0:
            raise SettingsError(f"budget_s: saw {budget_s}; expected more than 0 seconds")
        before_s, started_s = self._progress.elapsed_s, time.monotonic()
        while (share := self._share(budget_s)) < 1:
            loss, familiarity, skipped = self._advance(share)
            elapsed_s = self._team.agree(before_s + time.monotonic() - started_s)
            step = self._progress.step + 1
            self._progress = Progress(step, share, elapsed_s, loss, familiarity, self._progress.skipped + skipped)
            each_step(self._progress)

    def save(self, run_dir: Path) -> None:
        """Write all that `resume` needs, atomically; worker 0 does it for its team."""
        now = self._progress
        state = {
            "recipe": self._recipe.as_record(),
            "parent": self._start.digest,
            "learned": {name: value.detach() for name, value in self._learned.items()},
            "transform": self._start.transform.tensors,
            "optimizer": self._optimizer.state_dict(),
            "generator": self._team.gather(self._generator.get_state()),  # (workers, bytes)
            "progress": (now.step, now.share, now.elapsed_s, now.loss, now.familiarity, now.skipped),
        }
        if self._team.rank:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=run_dir, prefix=".saving-") as folder:
            draft = Path(folder) / self._file
            torch.save(state, draft)
            draft.replace(run_dir / self._file)

    def resume(self, run_dir: Path) -> bool:
        """Continue from the last `save`; return False if nothing was saved there.

        Raises:
            SettingsError: what was saved there is a run of another recipe, from another parent, or of another number of
                workers.
        """
        path = run_dir / self._file
        if not self._team.agree(path.exists()):
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        # Refuse a run of another recipe, version, parent, device or team.
        if Recipe.model_validate_json(json.dumps(state["recipe"])) != self._recipe:
            raise SettingsError(
                f"{run_dir} holds a run of another recipe ({state['recipe']['name']}); expected a run of this one, "
                "or an empty folder: name another folder, or take the same recipe"
            )
        if "transform" not in state:
            raise SettingsError(f"{run_dir} holds a run of an older version; expected one of this, or an empty folder")
        if state.get("parent", "") != self._start.digest:
            raise SettingsError(
                f"parent: saw {self._start.digest or 'none'}; expected {state.get('parent') or 'none'}, from which the "
                f"run in {run_dir} was begun, or another folder"
            )
        generators = state["generator"]
        if generators.shape[-1] != self._generator.get_state().numel():
            raise SettingsError(
                f"device: saw {self._start.device.type!r}; expected the kind that the run in {run_dir} was begun on, "
                "or another folder"
            )
        if len(generators) != self._team.size:
            raise SettingsError(
                f"workers: saw {self._team.size}; expected {len(generators)}, by which the run in {run_dir} was begun, "
                "or another folder"
            )
        # Take over the state.
        for name, value in state["learned"].items():
            self._learned[name].data.copy_(value)
        # Another machine finds the same principal components, but with other signs.
        there = {name: value.to(self._start.device) for name, value in state["transform"].items()}
        self._start = replace(self._start, transform=Transform.of(there))
        self._gradient = self._make_gradient()
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(generators[self._team.rank].clone())  # of a view, torch crashes
        self._progress = Progress(*state["progress"])
        return True

    @property
    def _file(self) -> str:
        return f"{self._phase.name}.pt"

    def _make_gradient(self) -> MetaGradient:
        model = self._with_parameters({**self._fixed, **self._learned})
        return MetaGradient(self._phase.objective, self._recipe, model, self._learned)

    def _with_parameters(self, flat: Tensors) -> Model:
        return replace(self._start, parameters=Parameters.of(flat))

    def _share(self, budget_s: float) -> float:
        return max(self._progress.step / self._recipe.optimizer.steps, self._progress.elapsed_s / budget_s)

    def _advance(self, share: float) -> tuple[float, float, bool]:
        """Take a step of the optimiser; return the smoothed losses, and whether the step was skipped."""
        table, now = self._recipe.optimizer, self._progress
        scale = _schedule(now.step, share, table)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * scale
        # Of one plan on all workers: each waits for the slowest, and the plan is what an episode's time depends on.
        plans = Generator().manual_seed(self._recipe.seed + now.step * _STRIDE)
        episode = self._phase.objective.draw(self._source, self._recipe, self._generator, plans)
        measured = self._gradient.compute(episode)
        for value, gradient in zip(self._learned.values(), measured.gradients, strict=True):
            value.grad = gradient
        average_gradients(self._learned.values(), self._team)
        norm = torch.nn.utils.clip_grad_norm_(self._learned.values(), table.gradient_limit)
        if not torch.isfinite(norm):
            return now.loss, now.familiarity, True
        self._optimizer.step()
        error, familiarity = self._team.mean(torch.stack([measured.error, measured.familiarity])).tolist()
        return _smooth(now.loss, error), _smooth(now.familiarity, familiarity), False


def _smooth(old: float, new: float) -> float:
    return new if math.isnan(old) else _SMOOTHING * old + (1 - _SMOOTHING) * new


def _optimizer(learned: Tensors, table: OptimizerTable) -> torch.optim.Optimizer:
    rates = {"weights": table.rate, "features": table.feature_rate, "loops": table.loop_rate, "eraser": ERASER_RATE}
    members: dict[str, list[Tensor]] = {group: [] for group in rates}
    for name, value in learned.items():
        members[_group(name, value)].append(value)
    groups = [{"params": members[group], "lr": rate} for group, rate in rates.items() if members[group]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _group(name: str, value: Tensor) -> str:
    if name.startswith("eraser."):
        return "eraser"
    if name.startswith(("reader.", "writer.")):
        return "loops"
    return "features" if name.startswith("slow.") and value.dim() > 1 else "weights"


def _schedule(step: int, share: float, table: OptimizerTable) -> float:
    """Return the factor of the rates: warm-up, plateau, and a straight line down to 0 at the end."""
    return min(1.0, (step + 1) / WARM_UP, (1 - share) / (1 - table.decay_from))
