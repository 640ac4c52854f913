"""Picture of one model's curves."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attractor_server.training.evaluation.measures import CONTROL
from attractor_server.training.evaluation.scores import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PANELS: Mapping[Table, str] = {
    "patterns": "patterns in a memory",
    "precision": "kB a memory",
    "age": "age: 0 newest, 1 oldest",
    "steps": "reading steps",
}

RIVALS = (
    *("pseudo-inverse, graded reads", "pseudo-inverse, reads by sign", "nearest stored"),
    *(CONTROL, "conditional Gaussian", "ridge", "n-gram"),
)
"""Lines beside our own, the first few of which are drawn: more could not be told apart"""

MOST = 4

OURS = "#1a5fb4"

MARKERS = "xs^vDP*"

COLOURS = ("#c64600", "#26a269", "#813d9c", "#77767b")

FORMATS = {32: "float32", 16: "bfloat16", 8: "int8"}

SHADES = 256


def draw_curves(rows: Sequence[Row], path: Path) -> bool:
    """Draw four curves of a model's rows with 95 % bands, and the rivals; return False where there are no curves.

    The curves are those of the first kind of cue. The file has few colours, so that it stays small.
    """
    from matplotlib.figure import Figure

    if not any(row.table == "patterns" for row in rows):
        return False
    cue = next(row.cue for row in rows if row.table == "patterns")
    own = [row for row in rows if row.cue == cue]
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axes, (table, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _draw_panel(axes, table, own)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(own[0].metric.replace("_", " "))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.suptitle(f"{own[0].model}, cue: {cue}", fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, metadata={"Software": None})
    _write(drawn, path)
    return True


def _write(drawn: io.BytesIO, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(SHADES, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)


def _draw_panel(axes: "Axes", table: Table, rows: Sequence[Row]) -> None:
    line = [row for row in rows if row.table == table]
    rivals = _rivals(rows)
    if table == "precision":
        _draw_bytes(axes, line, [row for row in rows if row.table == "quality" and row.count == line[0].count])
        return
    _draw_line(axes, line, "memory, one at a time", OURS, "o-")
    for name, colour in zip(rivals, COLOURS, strict=False):
        points = [row for row in rows if row.table == "quality" and row.method == name]
        if table == "patterns":
            _draw_line(axes, points, name, colour, "--")
        else:
            for row in points:
                if row.count == line[0].count:
                    axes.axhline(row.value, color=colour, linestyle="--", linewidth=1)


def _rivals(rows: Sequence[Row]) -> Sequence[str]:
    there = {row.method for row in rows if row.table == "quality"}
    return [name for name in RIVALS if name in there][:MOST]


def _draw_line(axes: "Axes", rows: Sequence[Row], label: str, colour: str, style: str) -> None:
    places = [row.count if row.at is None else row.at for row in rows]
    axes.plot(places, [row.value for row in rows], style, label=label, color=colour, markersize=3, linewidth=1.2)
    low, high = ([row.value + sign * row.interval for row in rows] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_bytes(axes: "Axes", own: Sequence[Row], others: Sequence[Row]) -> None:
    """Draw our memories in three number formats, and each rival with a memory, at the same number of patterns."""
    axes.plot([row.bytes / 1000 for row in own], [row.value for row in own], "o-", color=OURS, markersize=4)
    for row in own:
        _name(axes, row, FORMATS[int(row.at or 0)], OURS)
    kept = [row for row in others if row.family == "rival" and row.bytes]
    for number, row in enumerate(kept):
        marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
        axes.plot(
            row.bytes / 1000, row.value, marker, color=colour, markersize=5, label=_shorten(row.method), alpha=0.7
        )
    if kept:
        axes.legend(fontsize=5.5, framealpha=0.6)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)


def _name(axes: "Axes", row: Row, text: str, colour: str) -> None:
    place = (row.bytes / 1000, row.value)
    axes.annotate(text, place, (3, 3), textcoords="offset points", fontsize=6, color=colour, rotation=30)


def _shorten(method: str) -> str:
    """Return a store's name without details, but with the page that gives its budget."""
    page = method.rpartition("(a page of ")[2].rstrip(")")
    if "principal components" in method:
        return f"PCA codes, {page} page"
    return f"product quantiser, {page} page" if "quantiser" in method else method
