"""Picture of the demo: stored, cue, recalled by the network alone and with what is kept, and energies while reading."""

from pathlib import Path

from attractor_server.demo.job import TRACED, Report
from attractor_server.demo.pictures import Plan
from attractor_server.training.datasets.glyphs import SIDE

INK, PAPER = "#1a1a2e", "#ffffff"


def draw(plan: Plan, report: Report, path: Path) -> None:
    """Draw some items of the first memory, and the energies of their cues by reading step."""
    from matplotlib.figure import Figure

    first = report.answers[0]
    rows = {"stored": plan.stored, "cue": plan.cues, "network": first.by_network, "recalled": first.recalled}
    columns = min(TRACED, len(plan.stored))
    figure = Figure(figsize=(columns, 6.6), facecolor=PAPER, layout="constrained")
    halves = figure.subfigures(2, 1, height_ratios=(4.3, 2.3), squeeze=False)
    pictures, chart = halves[:, 0]
    grid = pictures.subplots(len(rows), columns, squeeze=False)
    for line, (name, patterns) in zip(grid, rows.items(), strict=True):
        for axes, pattern in zip(line, patterns, strict=False):
            axes.imshow(pattern.reshape(SIDE, SIDE), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, color=INK)
    axes = chart.subplots()
    axes.plot(report.energies, color=INK, alpha=0.6, marker="o", markersize=3)
    axes.set(xlabel="reading step", ylabel="energy", xticks=range(len(report.energies)))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
