"""The page of the claims names tests that there are, and has some for each claim."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ROWS = [line for line in (ROOT / "docs/claims.md").read_text().splitlines() if re.match(r"\| \d", line)]


def claims_in(row: str) -> set[int]:
    """The numbers in a row's first cell: `3, 4`."""
    return {int(number) for number in re.findall(r"\d+", row.split("|")[1])}


def named_in(row: str) -> set[str]:
    """What its last cell names, as `test_file.py::test_name`."""
    return set(re.findall(r"`(test_\w+\.py::test_\w+)`", row.split("|")[-2]))


def functions() -> Iterator[str]:
    for path in HERE.glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.name}::{node.name}"


def test_each_claim_from_1_to_23_has_a_row() -> None:
    assert sorted(number for row in ROWS for number in claims_in(row)) == list(range(1, 24))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_names_tests_and_modules_that_there_are(row: str) -> None:
    assert named_in(row)
    assert named_in(row) <= set(functions())
    modules = re.findall(r"`([\w/]+\.py)`", row.split("|")[4])
    assert modules
    assert [name for name in modules if not (ROOT / "server/attractor_server" / name).is_file()] == []


def test_every_test_that_shows_a_claim_is_named() -> None:
    shown = {name for name in functions() if not name.startswith("test_claims_page.py") and "::test_" in name}
    assert shown == set().union(*map(named_in, ROWS))
