"""How `make docs` renders the pages of the repository, and the SDK's docstrings, as a site.

The source folder is the repository itself, so that links between pages, and from them to files, are the ones that a
reader of the repository follows: a page becomes a page, a file a download, and a folder its name.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.addnodes import pending_xref

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
CONTENTS = """
```{toctree}
:hidden:
docs/agents
docs/api
docs/architecture
docs/durability
docs/operations
docs/extending
docs/security
docs/performance
docs/training
docs/quality
docs/claims
```

```{toctree}
:hidden:
:caption: Decisions
:glob:
docs/design/*
```

```{toctree}
:hidden:
:caption: Project
CHANGELOG
CONTRIBUTING
SECURITY
```
"""

sys.path.insert(0, str(HERE))
project = "Attractor"
extensions = ["myst_parser", "sphinx.ext.autodoc", "public_names"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [".*", "benchmarks", "build", "client", "dist", "examples", "protos", "runs", "server", "tests"]
templates_path = ["templates"]
html_theme = "furo"
html_title = "Attractor"
html_additional_pages = {"index": "redirect.html"}
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3
default_role = "py:obj"
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"


def name_folders(_: "Sphinx", page: nodes.document) -> None:
    """Replace each link to a folder of the repository by its text; a link to nothing stays a warning."""
    for link in list(page.findall(pending_xref)):
        if link["reftype"] == "myst" and (HERE.parent / link["refdoc"]).parent.joinpath(link["reftarget"]).is_dir():
            link.replace_self(link.children)


def add_contents(_: "Sphinx", page: str, source: list[str]) -> None:
    """Give the first page the table of contents, which only the site needs."""
    if page == root_doc:
        source[0] += CONTENTS


def setup(app: "Sphinx") -> None:
    """Register with Sphinx."""
    app.connect("doctree-read", name_folders)
    app.connect("source-read", add_contents)
