"""What a run shows while it goes on."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from attractor_server.training.meta import Progress

Show: TypeAlias = Callable[[Progress, Mapping[str, float]], None]

FIGURES = ("recalled", "no_write", "auroc")


@contextlib.contextmanager
def progress_bar(*, visible: bool) -> Iterator[Show]:
    """A bar with the time left, the loss, and the newest figures on validation data."""
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
    """One line: step, losses, steps skipped, and the figures there are."""
    parts = [f"step {progress.step}", f"loss {progress.loss:.4f}", f"familiarity {progress.familiarity:.4f}"]
    parts += [f"{name} {value:.4f}" for name, value in figures.items() if name.endswith(FIGURES)]
    return "  ".join([*parts, f"skipped {progress.skipped}"])
