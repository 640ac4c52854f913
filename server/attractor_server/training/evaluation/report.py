"""Tables of rows, and the page of the quality tables."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from attractor_server.errors import SettingsError
from attractor_server.training.evaluation.plots import PANELS
from attractor_server.training.evaluation.scores import Row
from attractor_server.training.metrics import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from rich.table import Table


HEAD = ("method", "figure", "identified", "AUROC of ΔE", "kB a memory")
"""The posterior's AUROC is of its probability, with the shares of stored and of unseen cues that it calls known"""

PAGES_HEAD = ("method", "figure", "identified", "right page", "kB a memory")

TITLES: Mapping[str, str] = {
    "seeds": "N = {count}, several trainings",
    "patterns": "against patterns in a memory",
    "steps": "against reading steps",
    "age": "by age, 0 the newest, at twice the capacity",
    "precision": "against bits of a fast weight",
    "erase": "before and after erasing",
    "repeats": "patterns that are stored again and again",
    "transfer": "another source, N = {count}",
    "pages": "{count} patterns in one memory of pages",
    "mixture": "N = {count}, nobody is told which",
}


def rich_tables(rows: Iterable[Row]) -> Iterator["Table"]:
    """Yield a table for each cue, number of patterns and curve."""
    from rich.table import Table

    for title, group in group_rows(rows):
        first, *others = head_of(group)
        table = Table(first, title=title, title_justify="left")
        for head in others:
            table.add_column(head, justify="right", no_wrap=True)
        for row in group:
            table.add_row(*cells(row), style="bold" if row.family == "memory" else None)
        yield table


def markdown(rows: Iterable[Row]) -> str:
    """Return the tables of rows as Markdown, titles as paragraphs."""
    return "\n\n".join(f"**{title}**\n\n{_lines(group)}" for title, group in group_rows(rows))


def group_rows(rows: Iterable[Row]) -> Iterator[tuple[str, Sequence[Row]]]:
    """Yield the title and the rows of each table; the order in each stays."""
    for _, group in groupby(sorted(rows, key=_place), _place):
        listed = list(group)
        yield _title(listed[0]), listed


def head_of(rows: Sequence[Row]) -> Sequence[str]:
    """Return the head of the table of these rows."""
    return PAGES_HEAD if rows[0].table == "pages" else HEAD


def cells(row: Row) -> Sequence[str]:
    """Return the cells of a row, in the order of the head."""
    method = row.method if row.at is None else f"{row.method}, {row.at:.3g}"
    judged = "" if row.auroc is None else f"{row.auroc:.3f}"
    if row.called_known is not None and row.unseen_called_known is not None:
        judged += f" (known {100 * row.called_known:.1f}, {100 * row.unseen_called_known:.1f} %)"
    if row.right_page is not None:
        judged = f"{100 * row.right_page:.1f} %"
    figure = f"{row.value:.4f} ± {row.interval:.4f}"
    identified = f"{100 * row.identified:.1f} % ± {100 * row.identified_interval:.1f}"
    return method, figure, identified, judged, f"{row.bytes / 1000:,.1f}"


def _place(row: Row) -> tuple[object, ...]:
    curve = row.table in ("patterns", "steps", "age", "precision")
    order = ("quality", *TITLES).index(row.table)
    return row.model, order, row.cue, 0 if curve else row.count


def _title(row: Row) -> str:
    metric = row.metric.replace("_", " ")
    better = "higher" if row.metric in HIGHER_IS_BETTER else "lower"
    over = f"{row.seeds} seeds" if row.seeds > 1 else f"{row.memories} memories"
    what = f"N = {row.count}" if row.table == "quality" else TITLES[row.table].format(count=row.count)
    return f"{row.model}, cue: {row.cue}, {what}; {metric} ({better} is better), 95 % over {over}"


def _lines(rows: Sequence[Row]) -> str:
    head = head_of(rows)
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


BEGIN, END = "<!-- tables: made by `make quality` -->", "<!-- end of the tables -->"


def fill_page(page: str, rows: Sequence[Row], *, drawn: Collection[str] = ()) -> str:
    """Return the page with all models' tables between its marks; those of `drawn` models have a picture for curves.

    Raises:
        SettingsError: the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"page: expected the lines {BEGIN!r} and {END!r}, in this order")
    return f"{before}{BEGIN}\n\n{_sections(rows, drawn)}{END}{after}"


def picture_of(model: str) -> str:
    """Return the name of a model's picture in `docs/img`."""
    return f"quality-{model}.png"


def _sections(rows: Sequence[Row], drawn: Collection[str]) -> str:
    """Return a section for each model."""
    sections = []
    for model, group in groupby(sorted(rows, key=lambda row: row.model), lambda row: row.model):
        listed = list(group)
        picture = ""
        if model in drawn:
            listed = [row for row in listed if row.table == "precision" or row.table not in PANELS]
            picture = f"![Curves of {model}](img/{picture_of(model)})\n\n"
        sections.append(f"## {model}\n\n{picture}{markdown(listed)}\n\n")
    return "".join(sections)
