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
