"""What the workers of a team do in `test_workers`: a module of its own, because Ray's processes import it."""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeAlias

import pytest
import torch
from tests.support.tiny_training import RECIPE, spoilt, stripes, trainer
from torch import Generator, Tensor

from attractor_server.energy.parameters import Parameters
from attractor_server.errors import SettingsError
from attractor_server.training import posterior, run
from attractor_server.training.datasets import Dataset
from attractor_server.training.initialization import initialize_model
from attractor_server.training.objective import episode_losses
from attractor_server.training.trainer import Progress, Trainer
from attractor_server.training.validation import fit_ridge
from attractor_server.training.workers import Team, average_gradients

STEPS = 12
Tensors: TypeAlias = dict[str, Tensor]
Report: TypeAlias = dict[str, Tensors | float | list[float] | list[int]]


class SpoiltOnce(Dataset):
    """A data set whose third sample is not finite."""

    calls = 0

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        SpoiltOnce.calls += 1
        return super().sample(memories, count, generator) * (math.nan if SpoiltOnce.calls == 3 else 1.0)


class Noted(Dataset):
    """A data set that notes what it was asked for and gave."""

    counts: ClassVar[list[int]] = []
    given: ClassVar[list[Tensor]] = []

    def sample(self, memories: int, count: int, generator: Generator) -> Tensor:
        patterns = super().sample(memories, count, generator)
        Noted.counts.append(count)
        Noted.given.append(patterns[0, 0])
        return patterns


def train_quickly(recipe_path: Path, options: run.Options, slate: object, team: Team) -> None:
    """Train as the command does on a worker, which the fixtures of `conftest.py` do not reach."""
    from attractor_server.training.ray_train import _train  # noqa: PLC0415 - takes seconds

    patch = pytest.MonkeyPatch()
    patch.setattr(run, "fit_ridge", functools.partial(fit_ridge, rounds=1))
    patch.setattr(posterior, "ITERATIONS", 4)
    _train(recipe_path, options, slate, team)


def report(folder: Path, team: Team) -> None:
    """Everything that the tests look at, in `folder/RANK.pt`; in the end it fails, as users' mistakes do."""
    torch.set_num_threads(1)
    found: Report = {
        "agreed": team.agree(0.1 + team.rank),
        "gathered": {"": team.gather(torch.tensor([team.rank, 7]))},
        **gradients(team),
        **uneven(team),
        **training(folder, team),
        **sampled(team),
        **faulty(team),
        **limited(team),
    }
    torch.save(found, folder / f"{team.rank}.pt")
    team.agree(0)  # all are done
    raise SettingsError(f"saw a mistake on one of {team.size}")


def gradients(team: Team) -> Report:
    """Of one episode, which is another one on each worker: alone, and averaged."""
    start = initialize_model(RECIPE, stripes())
    leaves = {name: value.clone().requires_grad_() for name, value in start.parameters.flat().items()}
    model = replace(start, parameters=Parameters.of(leaves))
    losses = episode_losses(model, stripes(), RECIPE, Generator().manual_seed(team.rank))
    torch.autograd.backward(losses.error + losses.familiarity)
    own = {name: leaf.grad.clone() for name, leaf in leaves.items() if leaf.grad is not None}
    average_gradients(leaves.values(), team)
    return {"own": own, "averaged": {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}


def uneven(team: Team) -> Report:
    """The averages where worker 1 alone has a gradient, and where nobody has one."""
    one, none = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    if team.rank == 1:
        one.grad = torch.tensor([2.0, -4.0])
    average_gradients([one, none], team)
    return {"uneven": {name: leaf.grad for name, leaf in (("one", one), ("none", none)) if leaf.grad is not None}}


def training(folder: Path, team: Team) -> Report:
    """A run, and the same one interrupted and resumed."""
    whole, first, second = (trainer(steps=STEPS, team=team) for _ in range(3))
    losses: list[float] = []
    whole.run(budget_s=math.inf, each_step=lambda progress: losses.append(progress.loss))

    def stop(progress: Progress) -> None:
        if progress.step == 5:
            first.save(folder / "run")
            raise KeyboardInterrupt

    try:
        first.run(budget_s=math.inf, each_step=stop)
    except KeyboardInterrupt:
        assert second.resume(folder / "run")
    resumed_at = second.progress.step
    finish(second)
    return {"whole": flat(whole), "losses": losses, "resumed": flat(second), "resumed_at": resumed_at}


def sampled(team: Team) -> Report:
    """How many patterns each step's episode has, and the first of them."""
    data = stripes()
    finish(trainer(steps=STEPS, team=team, data=Noted(data.layout, data.patterns, data.classes)))
    return {"counts": Noted.counts, "first": {str(step): given for step, given in enumerate(Noted.given)}}


def faulty(team: Team) -> Report:
    """A run in which one step's patterns are not finite on worker 1 alone."""
    data = stripes()
    spoilt_once = SpoiltOnce(data.layout, data.patterns, data.classes)
    tried = trainer(steps=5, team=team, data=spoilt_once if team.rank == 1 else data)
    finish(tried)
    return {"faulty": flat(tried), "skipped": tried.progress.skipped}


def limited(team: Team) -> Report:
    """A run that only time ends; worker 1's patterns take it elsewhere, its clock must not."""
    tried = trainer(steps=10**9, team=team, data=spoilt(stripes(), 1.0 + team.rank))
    tried.run(budget_s=0.5, each_step=lambda progress: None)
    return {"ended_at": tried.progress.step, "elapsed_s": tried.progress.elapsed_s}


def finish(one: Trainer) -> None:
    one.run(budget_s=math.inf, each_step=lambda progress: None)


def flat(one: Trainer) -> Tensors:
    return {name: value.clone() for name, value in one.model.parameters.flat().items()}
