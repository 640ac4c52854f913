"""The code of `docs/extending.md`, to be run as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def module_of(section: str) -> ModuleType:
    """Return a module with the Python code of a section, in the order of its blocks."""
    lines, inside, code = PAGE.read_text().splitlines(), False, False
    kept = []
    for line in lines:
        if line.startswith("## "):
            inside = line == f"## {section}"
        code = inside and (line == "```python" or (code and line != "```"))
        kept.append(line if code and line != "```python" else "")  # so that a traceback names lines of the page
    assert any(kept), f"{PAGE} has no code under {section!r}"
    module = ModuleType("extending_" + re.sub(r"\W+", "_", section).lower())
    sys.modules[module.__name__] = module  # where dataclasses look for what annotations name
    exec(compile("\n".join(kept), PAGE, "exec"), module.__dict__)
    return module


def extend(section: str, root: Path) -> list[str]:
    """Make the changes of a section in a copy of the sources; return the paths of the files.

    The paragraph before a block begins with the path. A block in Python is the whole file, one of a diff its changes.
    """
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    paragraph, fenced = r"^`([^`]+)`:.*\n(?:.+\n)*", r"\n```(python|diff)\n((?:(?!```).*\n)+)```"
    blocks: list[tuple[str, str, str]] = re.findall(paragraph + fenced, text, re.MULTILINE)
    for name, language, block in blocks:
        path = root / name
        assert path.exists() == (language == "diff"), f"{name}: there is no such file, or there is one already"
        path.write_text(block if language == "python" else change(path.read_text(), block, name))
    return [name for name, _, _ in blocks]


def change(text: str, diff: str, name: str) -> str:
    """Return the text with the changes of a diff, each at the first place that fits after the words of its `@@`."""
    for where, hunk in re.findall(r"^@@ ?(.*)\n((?:(?!@@).*\n)+)", diff, re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] or line for line in lines if not line.startswith("+"))
        new = "".join(line[1:] or line for line in lines if not line.startswith("-"))
        assert where in text, f"{name} has no {where!r}, which {PAGE.name} looks for"
        place = re.compile("^" + re.escape(old), re.MULTILINE).search(text, text.index(where))
        assert place, f"{name} does not have these lines, which {PAGE.name} changes (after {where!r}):\n{old}"
        text = text[: place.start()] + new + text[place.end() :]
    return text
