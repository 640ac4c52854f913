"""Log of a run: its checkpoints, its losses and figures, and its progress bar."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from attractor_server.training.trainer import Progress, Trainer

LOG = "log.jsonl"

SAVE_EVERY_S = 30.0

MEASURE_EVERY_S = 60.0

Figures = Mapping[str, float]


class RunLog:
    """Log that saves a run now and then, and writes losses and validation figures to `log.jsonl` and TensorBoard.

    Each worker of a team has one, because saving takes all of them; worker 0 alone measures and writes.
    """

    def __init__(
        self,
        trainer: Trainer,
        measure: Callable[[], Figures],
        run_dir: Path,
        *,
        phase: str = "main",
        writes: bool = True,
    ) -> None:
        self._trainer = trainer
        self._measure = measure
        self._run_dir = run_dir
        self._phase = phase
        self._writes = writes
        self._saved_s = trainer.progress.elapsed_s
        self._measured_s = time.monotonic()
        self._figures: Figures = {}

    def update(self, progress: Progress) -> Figures:
        """Measure and save where it is time to, and return the newest figures."""
        if time.monotonic() - self._measured_s > MEASURE_EVERY_S:
            self.measure(progress)
        if progress.elapsed_s - self._saved_s > SAVE_EVERY_S:  # the run's time, on which all workers agree
            self._trainer.save(self._run_dir)
            self._saved_s = progress.elapsed_s
        return self._figures

    def measure(self, progress: Progress) -> None:
        """Compute the figures now, and log them; do nothing where another worker does it."""
        if not self._writes:
            return
        self._figures = self._measure()
        losses = {"loss": progress.loss, "familiarity": progress.familiarity, "skipped": progress.skipped}
        entry = {"phase": self._phase, "step": progress.step, "elapsed_s": round(progress.elapsed_s, 1)}
        entry |= {**losses, **self._figures}
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with (self._run_dir / LOG).open("a") as log:
            log.write(json.dumps(entry) + "\n")
        self._draw({**losses, **self._figures}, progress.step)
        self._measured_s = time.monotonic()

    def _draw(self, figures: Figures, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes seconds

        with SummaryWriter(str(self._run_dir / "tensorboard")) as board:
            for name, value in figures.items():
                board.add_scalar(f"{self._phase}/{name}", value, step)


Show: TypeAlias = Callable[[Progress, Mapping[str, float]], None]

FIGURES = ("recalled", "no_write", "auroc")


@contextlib.contextmanager
def progress_bar(*, visible: bool) -> Iterator[Show]:
    """Show a bar with the time left, the loss, and the newest figures on validation data."""
    if not visible:
        yield lambda progress, figures: None
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, refresh_per_second=2) as bar:
        task = bar.add_task("training", total=1.0)
        yield lambda progress, figures: bar.update(
            task, completed=progress.share, description=describe(progress, figures)
        )


def describe(progress: Progress, figures: Mapping[str, float]) -> str:
    """Return a line with step, losses, figures, and steps skipped."""
    parts = [f"step {progress.step}", f"loss {progress.loss:.4f}", f"familiarity {progress.familiarity:.4f}"]
    parts += [f"{name} {value:.4f}" for name, value in figures.items() if name.endswith(FIGURES)]
    return "  ".join([*parts, f"skipped {progress.skipped}"])
