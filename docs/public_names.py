"""A Sphinx extension for the page of the SDK: `.. public-names:: calls` documents those of `attractor.__all__`.

The SDK's docstrings are plain text with names in backquotes and a `Raises:` section, and the tree at the top of its
module of errors describes each of these. The extension turns both into markup that autodoc knows.
"""

import __future__

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PACKAGE = "attractor"
RAISES = re.compile(r"Raises\b.*:$")
RAISED = re.compile(r"    (\w+): (.*)")
IN_TREE = re.compile(r"[│├└─ ]*(\w+) +(\w.*)")
IN_SIGNATURE = re.compile(r": ~?(?:\w+\.)*(\w+)")
PATHS = re.compile(r"~(?:\w+\.)+|TypeAliasForwardRef\('(\w+)'\)")
ALIASES = ("FilePath", "Floats", "Ids", "Integers", "Payload")
"""Private ones, which the page explains"""
ORDER = ("autofunction", "autoclass", "automodule", "autodata", "autoexception")


class AsWritten(SourceFileLoader):
    """Compile a module so that its annotations stay text: `Patterns`, and not the dozen types behind that name."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the module, past any cached one."""
        source = self.get_data(self.get_filename(fullname))
        flags = __future__.annotations.compiler_flag
        code: CodeType = compile(source, self.path, "exec", flags=flags, dont_inherit=True)
        return code


class Finder(MetaPathFinder):
    """Find the package's modules as ever, to be loaded `AsWritten`."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: ModuleType | None = None) -> ModuleSpec | None:
        """Return nothing for modules of other packages."""
        spec = PathFinder.find_spec(name, path) if name.partition(".")[0] == PACKAGE else None
        if spec is not None and spec.origin is not None:
            spec.loader = AsWritten(name, spec.origin)
        return spec


class PublicNames(SphinxDirective):
    """Document every public name of one kind: calls, modules, values or errors."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what autodoc makes of them."""
        package = importlib.import_module(PACKAGE)
        sorts = {name: sort(getattr(package, name)) for name in package.__all__}
        names = [name for name in package.__all__ if sorts[name][0] == self.arguments[0]]
        names.sort(key=lambda name: ORDER.index(sorts[name][1]))
        return self.parse_text_to_nodes("\n\n".join(f".. {sorts[name][1]}:: {PACKAGE}.{name}" for name in names))


def sort(value: object) -> tuple[str, str]:
    """Return the kind of a public name, and the directive that documents it."""
    if inspect.ismodule(value):
        return "modules", "automodule"
    if inspect.isroutine(value):
        return "calls", "autofunction"
    if not inspect.isclass(value):
        return "values", "autodata"
    if issubclass(value, Exception):
        return "errors", "autoexception"
    return "values" if dataclasses.is_dataclass(value) else "calls", "autoclass"


def write_markup(_: "Sphinx", what: str, name: str, value: object, __: object, lines: list[str]) -> None:
    """Replace the lines of a docstring by their markup."""
    if what == "data":
        lines[:] = comment_on(name.rpartition(".")[2])
    elif what == "exception" and not lines:
        lines[:] = described(name.rpartition(".")[2], sys.modules[f"{PACKAGE}._errors"].__doc__ or "")
    lines[:] = marked_up(line.replace("*", r"\*") for line in lines)  # `(patterns, *shape)` is no emphasis


def comment_on(name: str) -> list[str]:
    """Return the docstring below a constant or an alias, in the module where it is defined."""
    for module in [module for module in sys.modules if module.startswith(f"{PACKAGE}._")]:
        if comment := ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name)):
            return list(comment)
    return []


def described(error: str, tree: str) -> list[str]:
    """Return what the tree of errors says of one of them."""
    lines = [found for line in tree.splitlines() if (found := IN_TREE.fullmatch(line))]
    return [f"{found[2][0].upper()}{found[2][1:]}." for found in lines if found[1] == error]


def marked_up(lines: Iterator[str]) -> list[str]:
    """Make a list of fields of a section `Raises:`, which ends a docstring."""
    done: list[str] = []
    raises = False
    for line in lines:
        raises = raises or RAISES.match(line) is not None
        if raises and (found := RAISED.match(line)):
            done.append(f":raises {found[1]}: {found[2]}")
        elif not RAISES.match(line):
            done.append(line)
    return done


def write_signature(
    _: "Sphinx", what: str, __: str, value: object, ___: object, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Shorten a signature to names, and hide how errors are made, and classes that only a client makes."""
    public = {*importlib.import_module(PACKAGE).__all__, *vars(sys.modules["builtins"])}
    made_inside = what == "class" and not {*IN_SIGNATURE.findall(signature or "")} <= public
    if what == "exception" or (made_inside and not dataclasses.is_dataclass(value)):
        return "", None
    return None if signature is None else (PATHS.sub(r"\1", signature), returned and PATHS.sub(r"\1", returned))


def restore_modules(package: ModuleType) -> None:
    """Set `__module__` of public classes, which is the package, to where they are defined: autodoc looks there."""
    for module in [module for module in sys.modules if module.startswith(f"{PACKAGE}._")]:
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        for name in analyzer.tags.keys() & package.__all__:
            if inspect.isclass(value := getattr(package, name)):
                value.__module__ = module


def setup(app: "Sphinx") -> None:
    """Register with Sphinx."""
    sys.meta_path.insert(0, Finder())
    package = importlib.import_module(PACKAGE)
    restore_modules(package)
    values = [name for name in package.__all__ if sort(getattr(package, name))[1] == "autodata"]
    app.config["autodoc_type_aliases"] = {name: name for name in (*values, *ALIASES)}
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", write_markup)
    app.connect("autodoc-process-signature", write_signature)
