"""The tree at the top of a package's errors is the documentation of every class in it."""

import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from attractor import _errors
from attractor_server import errors

LINE = re.compile(r"((?:│   |    )*)(?:[├└]── )?(\w+)")


def drawn(tree: str) -> Iterator[tuple[str, str]]:
    """The pairs of a class and its base that the lines of a tree show; the root has none."""
    above: list[str] = []
    for line in tree.splitlines():
        found = LINE.match(line)
        assert found, line
        depth = len(found[1]) // 4 + ("── " in line)
        above[depth:] = [found[2]]
        yield found[2], above[depth - 1] if depth else ""


@pytest.mark.parametrize(("module", "root"), [(errors, errors.ServerError), (_errors, _errors.AttractorError)])
def test_every_error_stands_in_the_tree_at_the_top_of_its_module(module: ModuleType, root: type[Exception]) -> None:
    assert module.__doc__
    tree = list(drawn(module.__doc__.partition("\n\n")[2].strip()))
    classes = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, root)]
    assert sorted(name for name, _ in tree) == sorted(kind.__name__ for kind in classes)
    for name, base in tree:
        assert not base or base in [kind.__name__ for kind in getattr(module, name).__bases__], name
