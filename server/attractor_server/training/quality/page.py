"""The page of the quality tables: what stands between its marks is made of rows, and never typed."""

from collections.abc import Sequence
from itertools import groupby

from attractor_server.errors import SettingsError
from attractor_server.training.quality.rows import Row
from attractor_server.training.quality.tables import markdown

BEGIN, END = "<!-- tables: made by `make quality` -->", "<!-- end of the tables -->"


def filled_page(page: str, rows: Sequence[Row]) -> str:
    """The page with the tables of all models between its marks.

    Raises:
        SettingsError: the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"page: expected the lines {BEGIN!r} and {END!r}, in this order")
    return f"{before}{BEGIN}\n\n{_sections(rows)}{END}{after}"


def _sections(rows: Sequence[Row]) -> str:
    """One for each model."""
    sections = []
    for model, group in groupby(sorted(rows, key=lambda row: row.model), lambda row: row.model):
        sections.append(f"## {model}\n\n{markdown(group)}\n\n")
    return "".join(sections)
