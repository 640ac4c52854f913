"""Rules of the repository: imports of tests, paths that pages name, and first words of docstrings."""

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
FOLDERS = ("benchmarks", "client", "docs", "examples", "helm", "protos", "server", "tests", ".ci")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SUFFIXES = (".py", ".c", ".h", ".md", ".toml", ".json", ".proto", ".sh", ".yaml")
OF_USERS = ("NAME.toml", "server/attractor_server/engine/operations/measure.py")
"""Names of files that a reader writes"""
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def imports_of_tests(path: Path) -> list[str]:
    """Return the modules of the tests that a file imports, each with the names it takes from there."""
    return re.findall(r"^\s*(?:from|import) (tests\b.*?)(?: +#.*)?$", path.read_text(), re.MULTILINE)


def test_tests_share_code_through_support_and_none_imports_another_or_a_conftest() -> None:
    for path in TESTS.rglob("*.py"):
        in_chaos = path.is_relative_to(TESTS / "chaos")
        for line in imports_of_tests(path):
            assert line.startswith(("tests.support", "tests.chaos") if in_chaos else "tests.support"), f"{path}: {line}"
            assert not re.search(r"\b(conftest|test_\w+)", line), f"{path}: {line}"


def test_each_file_of_tests_has_a_name_of_its_own() -> None:
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@functools.cache
def repository() -> tuple[str, ...]:
    """Return each file and folder of the repository as `/path/to/it`."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder, *(ROOT / folder).rglob("*"))]
    beside = [path for path in ROOT.iterdir() if path.is_file()]
    return tuple("/" + str(path.relative_to(ROOT)) for path in (*inside, *beside) if "__pycache__" not in path.parts)


def words_marked_as_code(page: Path) -> Iterator[str]:
    """Yield what stands between backticks, word by word, outside of blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for marked in re.findall(r"`([^`]+)`", text):
        yield from marked.split()


def is_path(word: str) -> bool:
    """Return whether a word names a file by its ending, or a folder by the one that it begins with."""
    folders = (*FOLDERS, *(path.name for path in (ROOT / "server/attractor_server").iterdir() if path.is_dir()))
    if not re.fullmatch(r"[\w.*/-]*\w[*/]?", word) or word.startswith("/") or word in SUFFIXES + OF_USERS:
        return False
    return word.endswith(SUFFIXES) or ("/" in word and word.partition("/")[0] in folders)


def is_there(word: str) -> bool:
    """Return whether the repository has a file or folder whose path ends so."""
    return any(fnmatch(path, f"*/{word.rstrip('/')}") for path in repository())


@each_page
def test_pages_name_paths_that_there_are(page: Path) -> None:
    named = {word.partition("::")[0] for word in words_marked_as_code(page)}
    assert sorted(word for word in named if is_path(word) and not is_there(word)) == []


@each_page
def test_pages_link_to_files_that_there_are(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [link for link in links if not link.startswith("http") and not (page.parent / link).exists()] == []


@functools.cache
def functions_of(name: str) -> frozenset[str]:
    """Return the names of the tests in the files whose paths end so."""
    found = (path for path in TESTS.rglob("test_*.py") if fnmatch(f"/{path.relative_to(ROOT)}", f"*/{name}"))
    return frozenset(
        test for path in found for test in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    )


@each_page
def test_pages_name_tests_that_there_are(page: Path) -> None:
    named = [match for word in words_marked_as_code(page) if (match := re.fullmatch(r"(?:(.+)::)?(test_\w+)", word))]
    assert [match[0] for match in named if match[2] not in functions_of(match[1] or "*")] == []


def test_docstrings_begin_with_a_verb_or_with_the_name_of_a_thing() -> None:
    sources = [path for part in ("client", "server", "protos", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in (path for path in sources if "_pb2" not in path.name):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            assert not re.match(r"(What|Which|Those|The same|Of)\b", text or ""), f"{path}: {text}"
