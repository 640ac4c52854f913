"""Demo from end to end: a server, the job, the figures, the table and the drawing."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import click

from attractor_server.cluster.serve import run_server
from attractor_server.config import Settings
from attractor_server.demo.drawing import draw
from attractor_server.demo.figures import figures_of
from attractor_server.demo.job import Report, run_job
from attractor_server.demo.pictures import glyph_plans, picture_plans

SHARDS = 2
ROWS = {
    "mse_cue": "error of the cue",
    "mse_recalled": "error of what was recalled",
    "mse_network": "… by the network alone, without the kept pictures",
    "mse_ridge": "… of a memoryless ridge denoiser",
    "mse_no_write": "… of the same network, nothing written",
    "mse_nearest": "… of the stored item nearest to the cue",
    "id_recalled": "rightly identified from what was recalled",
    "id_cue": "… from the cue",
    "probability_auroc": "AUROC of the probability, stored against unseen",
    "auroc": "… of the network's ΔE",
}


def run_demo(images: Sequence[Path], output: Path) -> None:
    """Print a table, write the drawing, and end with one line of JSON on stdout.

    Raises:
        SettingsError: a picture cannot be read.
    """
    plans = picture_plans(images) if images else glyph_plans()
    click.echo(f"Starting a server with {SHARDS} shards on this machine")
    with (
        tempfile.TemporaryDirectory() as folder,
        run_server(Settings(shards=SHARDS, port=0, data_dir=Path(folder))) as cluster,
    ):
        report = anyio.run(run_job, cluster.addresses[0], plans)
    figures = figures_of(plans, report)
    draw(plans[0], report, output)
    stored = sum(len(plan.stored) for plan in plans)
    _print_table(figures, report, stored)
    click.echo(f"The drawing is in {output}")
    keys = [key for key in ROWS if key != "mse_no_write"]
    counts = {"memories": len(plans), "stored": stored, "queries": stored, "shards": SHARDS}
    click.echo(json.dumps({**counts, **{key: round(figures[key], 4) for key in keys}}))


def _print_table(figures: Mapping[str, float], report: Report, stored: int) -> None:
    """Print the table; errors are mean squares of values from -1 to 1."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{stored} pictures in {len(report.answers)} memories, a quarter of each cue covered")
    table.add_column("")
    table.add_column("", justify="right")
    for key, text in ROWS.items():
        table.add_row(text, f"{figures[key]:.4f}", style="bold" if key.endswith("recalled") else None)
    table.add_row("stores/s, one at a time", f"{stored / report.store_s:,.0f}")
    table.add_row("queries/s", f"{stored / report.query_s:,.0f}")
    Console().print(table)
