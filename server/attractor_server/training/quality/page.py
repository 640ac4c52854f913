"""The page of the quality tables: what stands between its marks is made of rows, and never typed."""

from collections.abc import Collection, Sequence
from itertools import groupby

from attractor_server.errors import SettingsError
from attractor_server.training.quality.plots import PANELS
from attractor_server.training.quality.rows import Row
from attractor_server.training.quality.tables import markdown

BEGIN, END = "<!-- tables: made by `make quality` -->", "<!-- end of the tables -->"


def filled_page(page: str, rows: Sequence[Row], *, drawn: Collection[str] = ()) -> str:
    """The page with the tables of all models between its marks; of models that were drawn, curves are a picture.

    Raises:
        SettingsError: the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"page: expected the lines {BEGIN!r} and {END!r}, in this order")
    return f"{before}{BEGIN}\n\n{_sections(rows, drawn)}{END}{after}"


def picture_of(model: str) -> str:
    """The name of a model's picture in `docs/img`."""
    return f"quality-{model}.png"


def _sections(rows: Sequence[Row], drawn: Collection[str]) -> str:
    """One for each model."""
    sections = []
    for model, group in groupby(sorted(rows, key=lambda row: row.model), lambda row: row.model):
        listed = list(group)
        picture = ""
        if model in drawn:
            listed = [row for row in listed if row.table == "precision" or row.table not in PANELS]
            picture = f"![Curves of {model}](img/{picture_of(model)})\n\n"
        sections.append(f"## {model}\n\n{picture}{markdown(listed)}\n\n")
    return "".join(sections)
