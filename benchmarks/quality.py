"""How good is every model that ships? Rows to results/quality.jsonl, tables into docs/quality.md (`make quality`)."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from attractor_server.energy.model import SUFFIX
from attractor_server.training.quality.evaluating import Extent, evaluate
from attractor_server.training.quality.opened import SHIPPED
from attractor_server.training.quality.page import filled_page
from attractor_server.training.quality.rows import Row

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "quality.jsonl"
PAGE = ROOT / "docs" / "quality.md"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--memories", type=click.IntRange(min=2), default=64, show_default=True)
@click.option(
    "--controls",
    type=click.Path(path_type=Path),
    default=ROOT / "models",
    help="Folder where NAME-control.safetensors is, as `attractor train NAME.toml --control` writes it.",
)
def main(names: tuple[str, ...], memories: int, controls: Path) -> None:
    """Measure models that ship, all without a NAME, and write their rows and tables; rows of others stay."""
    wanted = names or sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))
    rows = [row for row in kept() if row.model not in wanted]
    for name in wanted:
        rows += measured(name, memories, controls)
        RESULTS.write_text("".join(f"{row.as_json()}\n" for row in rows))
    PAGE.write_text(filled_page(PAGE.read_text(), rows))


def kept() -> Iterator[Row]:
    """Rows of earlier runs."""
    if RESULTS.is_file():
        yield from (Row(**json.loads(line)) for line in RESULTS.read_text().splitlines())


def measured(name: str, memories: int, controls: Path) -> Sequence[Row]:
    """A model's rows; the command that makes them and the time it took go to the terminal."""
    path, started_s = controls / f"{name}-control{SUFFIX}", time.perf_counter()
    control = str(path) if path.is_file() else None
    command = ["attractor", "evaluate", name, "--memories", str(memories), *(["--control", control] if control else [])]
    print(shlex.join(command), flush=True)
    rows = evaluate([name], Extent(memories=memories), control=control)
    print(f"{len(rows)} rows in {time.perf_counter() - started_s:.0f} s", flush=True)
    return rows


if __name__ == "__main__":
    main()
