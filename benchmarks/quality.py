"""How good is every model that ships? Rows to results/quality.jsonl, tables and curves into docs (`make quality`)."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from attractor_server.energy.model_file import SUFFIX
from attractor_server.training.evaluation.measures import CONTROL
from attractor_server.training.evaluation.plots import draw_curves
from attractor_server.training.evaluation.report import fill_page, picture_of
from attractor_server.training.evaluation.run import Extent, evaluate
from attractor_server.training.evaluation.scores import Row
from attractor_server.training.evaluation.seeds import seed_rows
from attractor_server.training.model_lookup import SHIPPED, control_file, seed_files

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "quality.jsonl"
PAGE = ROOT / "docs" / "quality.md"
PICTURES = ROOT / "docs" / "img"
FOLDER = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of the measurements."""

    memories: int
    controls: Path
    seeds: Path | None
    rivals: bool


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--memories", type=click.IntRange(min=2), default=64, show_default=True)
@click.option(
    "--controls",
    type=FOLDER,
    default=ROOT / "models",
    help="Folder with NAME-control.safetensors somewhere in it, as `attractor train NAME.toml --control` writes it; "
    "without one the control's rows stay as they are.",
)
@click.option(
    "--seeds",
    type=FOLDER,
    help="Folder with other seeds of the models: NAME-SEED.safetensors, or NAME.safetensors in a folder NAME-SEED.",
)
@click.option("--no-rivals", is_flag=True, help="Leave the rows of rivals as they are, and measure the memories alone.")
@click.option("--draw-only", is_flag=True, help="Make the page anew from the rows that there are.")
def main(
    names: tuple[str, ...], memories: int, controls: Path, seeds: Path | None, no_rivals: bool, draw_only: bool
) -> None:
    """Measure models that ship, all without a NAME, and write their rows, tables and curves; rows of others stay."""
    wanted = names or sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))
    plan = Plan(memories=memories, controls=controls, seeds=seeds, rivals=not no_rivals)
    rows = list(read_rows())
    for name in () if draw_only else wanted:
        left = [row for row in rows if row.model != name or stays(row, plan)]
        rows = [*left, *measure_rows(name, plan)]
        RESULTS.write_text("".join(f"{row.as_json()}\n" for row in rows))
    models = dict.fromkeys(row.model for row in rows)
    drawn = [one for one in models if draw_curves(of(rows, one), PICTURES / picture_of(one))]
    PAGE.write_text(fill_page(PAGE.read_text(), rows, drawn=drawn))


def read_rows() -> Iterator[Row]:
    """Read the rows of earlier runs."""
    if RESULTS.is_file():
        yield from (Row(**json.loads(line)) for line in RESULTS.read_text().splitlines())


def stays(row: Row, plan: Plan) -> bool:
    """Return whether a row of a model that is measured again stays."""
    if row.table == "seeds":
        return plan.seeds is None
    if row.method == CONTROL:
        return control_file(plan.controls, row.model) is None
    return not plan.rivals and row.table == "quality" and row.family == "rival"


def of(rows: Sequence[Row], model: str) -> Sequence[Row]:
    """Return the rows of one model."""
    return [row for row in rows if row.model == model]


def measure_rows(name: str, plan: Plan) -> Sequence[Row]:
    """Measure a model's rows; their command and time go to the terminal."""
    started_s, found = time.perf_counter(), control_file(plan.controls, name)
    control = None if found is None else str(found)
    options = ["--curves", "--pages", "--transfer", *([] if plan.rivals else ["--no-rivals"])]
    command = ["attractor", "evaluate", name, "--memories", str(plan.memories), *options]
    print(shlex.join([*command, *(["--control", control] if control else [])]), flush=True)
    extent = Extent(memories=plan.memories, rivals=plan.rivals, curves=True, pages=True, transfer=True)
    rows = [*evaluate([name], extent, control=control), *over_seeds(name, plan)]
    print(f"{len(rows)} rows in {time.perf_counter() - started_s:.0f} s", flush=True)
    return rows


def over_seeds(name: str, plan: Plan) -> Sequence[Row]:
    """Return the rows over all seeds of a model, where there are several."""
    files = [] if plan.seeds is None else [str(path) for path in seed_files(plan.seeds, name)]
    if len(files) < 2:
        return []
    print(shlex.join(["attractor", "evaluate", *files, "--no-rivals", "--memories", str(plan.memories)]), flush=True)
    return list(seed_rows(evaluate(files, Extent(memories=plan.memories, rivals=False)), name))


if __name__ == "__main__":
    main()
