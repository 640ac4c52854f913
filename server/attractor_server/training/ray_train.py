"""Meta-training on several workers by Ray Train. No other file of training imports ray.

Every worker draws its own episodes, and the meta-gradients are averaged by an explicit all-reduce (`team`), not by
DistributedDataParallel. The learned tensors are plain tensors in a functional model, not a module's parameters, and
the loss is differentiated through a writing loop that itself differentiates by them; DDP's hooks and buckets belong
around one forward of one module. A loss depends on other tensors in other episodes, which DDP only bears with a
search for unused parameters. And the mean has to be there before clipping, where a gradient that is not finite on any
worker makes all of them leave the step out. One reduction of one flat tensor does all of that, exactly.

Workers are processes on this machine: on its processors, joined by gloo, or each on a GPU, joined by NCCL.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import ray
import torch
from ray.train import RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import SUFFIX, load_model
from attractor_server.errors import ServerError, SettingsError
from attractor_server.training.run import Options, device_of, recipe_of, train
from attractor_server.training.run_log import Show, progress_bar
from attractor_server.training.trainer import Progress
from attractor_server.training.workers import Group, Team

SHOW_EVERY_S = 0.5
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Least size that Ray takes: nothing large goes through its object store."""
Handle: TypeAlias = Any  # Ray's actor handles are made at run time
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GRPC_VERBOSITY": "ERROR",
}


def train_on_workers(recipe_path: Path, options: Options, *, workers: int) -> Model:
    """Train like `run.train` in so many processes, each with one processor, and with one GPU where those train.

    Every step of the optimiser then sees as many episodes as there are workers.

    Raises:
        SettingsError: the recipe or the budget cannot be meant, `run_dir` holds a run of another recipe or of another
            number of workers, or there are fewer GPUs.
    """
    recipe = recipe_of(recipe_path, options)  # here, where a fault is told before anything has started
    options = replace(options, output=options.output.resolve(), run_dir=options.run_dir.resolve())
    if options.parent and Path(options.parent).is_file():  # else the name of one that ships
        options = replace(options, parent=str(Path(options.parent).resolve()))
    gpus = device_of(options.device).type == "cuda"
    if gpus and workers > (count := torch.cuda.device_count()):
        raise SettingsError(f"workers: saw {workers} on {options.device}; expected at most {count}, one for each GPU")
    with local_ray(workers), _open_slate(visible=options.show_progress) as slate:
        work = partial(_train, recipe_path.resolve(), options, slate)
        on_workers(work, workers=workers, folder=options.run_dir, gpus=gpus)
    return load_model(options.output / f"{recipe.name}{SUFFIX}")


def on_workers(work: Callable[[Team], None], *, workers: int, folder: Path, gpus: bool = False) -> None:
    """Run the same work on every worker of a new team, in the `local_ray` that is open.

    Ray keeps its own notes in `folder`/ray.

    Raises:
        ServerError: what a worker raised, where it raised one of these.
        RuntimeError: a worker failed in another way.
    """
    trainer = TorchTrainer(
        _run_member,
        train_loop_config={"work": work},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
        ),
        run_config=RunConfig(name="ray", storage_path=str(folder.resolve())),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise _find_cause(error) from error


def _run_member(config: Mapping[str, Callable[[Team], None]]) -> None:
    device = get_device()  # the worker's own GPU, where it was given one
    assert isinstance(device, torch.device)
    config["work"](Group(device))


def _find_cause(error: WorkerGroupError) -> Exception:
    """Return the error of ours that a worker raised, else one with all that is known."""
    for failure in error.worker_failures.values():
        raised = getattr(failure, "_base_exc", failure)
        if isinstance(raised, ServerError):
            return raised
    return RuntimeError(str(error))


def _train(recipe_path: Path, options: Options, slate: Handle, team: Team) -> None:
    """Train on one worker."""
    if isinstance(team, Group):
        options = replace(options, device=str(team.device))
    train(recipe_path, options, team=team, bar=partial(_slate_bar, slate, team))


def _slate_bar(slate: Handle, team: Team) -> AbstractContextManager[Show]:
    last_s = 0.0

    def show(progress: Progress, figures: Mapping[str, float]) -> None:
        nonlocal last_s
        if team.rank == 0 and time.monotonic() - last_s > SHOW_EVERY_S:
            slate.write.remote(progress, figures)
            last_s = time.monotonic()

    return nullcontext(show)


class _Slate:
    """Actor that holds worker 0's progress for the terminal."""

    def __init__(self) -> None:
        self._newest: tuple[Progress, Mapping[str, float]] | None = None

    def write(self, progress: Progress, figures: Mapping[str, float]) -> None:
        """Replace the progress."""
        self._newest = progress, figures

    def read(self) -> tuple[Progress, Mapping[str, float]] | None:
        """Return the newest progress."""
        return self._newest


@contextmanager
def _open_slate(*, visible: bool) -> Iterator[Handle]:
    """Open a slate whose progress goes to the progress bar until the end of the block."""
    slate, stop = ray.remote(_Slate).options(num_cpus=0).remote(), threading.Event()
    reader = threading.Thread(target=_show, args=(slate, stop), name="progress")
    if visible:
        reader.start()
    try:
        yield slate
    finally:
        stop.set()
        if visible:
            reader.join()


def _show(slate: Handle, stop: threading.Event) -> None:
    with progress_bar(visible=True) as show:
        while True:
            stopped = stop.wait(SHOW_EVERY_S)
            newest = ray.get(slate.read.remote())
            if newest is not None:
                show(*newest)
            if stopped:
                break


@contextmanager
def local_ray(processors: int) -> Iterator[None]:
    """Start a quiet Ray with a place for each worker until the end of the block, or use the one that is open."""
    if ray.is_initialized():
        yield
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=processors,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
