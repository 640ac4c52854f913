"""The table of what was shown: printed, kept as JSON, and put in the page that tells of it."""

import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tests.chaos.tally import FAULTS, Tally

from attractor_server.shard.spec import available_cores

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "chaos.json"
PAGE = ROOT / "docs" / "durability.md"
BEGIN, END = "<!-- chaos: the table below is made by `make chaos` -->\n", "<!-- chaos: end -->\n"
COLUMNS = (
    ("times", "times"),
    ("stores", "stores"),
    ("lost", "lost"),
    ("doubled", "doubled"),
    ("wrong", "wrong"),
    ("median_wait_s", "median wait s"),
    ("worst_wait_s", "worst wait s"),
    ("found", "found"),
    ("harmless", "harmless"),
)
Row: TypeAlias = dict[str, Any]


def kept(tallies: Mapping[str, Tally], *, command: str, path: Path = KEPT) -> Mapping[str, Row]:
    """Puts these rows among those of earlier runs; all of them, in the order of the list of faults."""
    rows: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}
    made = {"command": command, "machine": machine(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    rows |= {name: {"what": FAULTS[name].what, **tally.row(), **made} for name, tally in tallies.items()}
    rows = {name: rows[name] for name in FAULTS if name in rows}
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def machine() -> str:
    return f"{platform.machine()}, {available_cores()} cores, Python {platform.python_version()}"


def table(rows: Mapping[str, Row]) -> str:
    """In Markdown."""
    lines = [
        f"| fault | {' | '.join(title for _, title in COLUMNS)} |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for name, row in rows.items():
        cells = [_cell(row[key]) for key, _ in COLUMNS]
        if row["not_possible"]:
            cells = ["not possible there", *[""] * (len(COLUMNS) - 1)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}"


def put_in(page: Path, rows: Mapping[str, Row]) -> None:
    """Replaces the table of the page."""
    text = page.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(before + BEGIN + "\n" + table(rows) + "\n" + END + after)
