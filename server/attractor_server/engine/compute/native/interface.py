"""Structures and functions of the native library, as its header `kernels.h` declares them."""

import ctypes
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias

from attractor_server.engine.compute.native.build import FOLDER

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STRUCTURE = re.compile(r"typedef struct \{(.*?)\} (\w+);", re.DOTALL)
_FUNCTION = re.compile(r"^void (\w+)\((.*?)\);", re.DOTALL | re.MULTILINE)
_DECLARATION = re.compile(r"(?:const )?(\w+) (.+)", re.DOTALL)
_NUMBERS = {"int64_t": ctypes.c_int64, "float": ctypes.c_float, "int8_t": ctypes.c_int8, "int16_t": ctypes.c_int16}

Structures: TypeAlias = Mapping[str, type[ctypes.Structure]]


@cache
def structures() -> Structures:
    """Return the header's structures by name."""
    return parse_structures((FOLDER / "kernels.h").read_text("utf-8"))


def fill(name: str, **values: Any) -> ctypes.Structure:  # noqa: ANN401 - integers, addresses or structures
    """Make a structure of the header; pointers are addresses.

    Raises:
        TypeError: a field is missing, or there is no such field.
    """
    structure = structures()[name]
    if values.keys() != {field[0] for field in structure._fields_}:
        raise TypeError(f"{name} has the fields {[field[0] for field in structure._fields_]}; saw {[*values]}")
    return structure(**values)


def declare_functions(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the parameters of the library's functions."""
    text = _COMMENT.sub("", (FOLDER / "kernels.h").read_text("utf-8"))
    for name, parameters in _FUNCTION.findall(text):
        function = getattr(library, name)
        function.restype = None
        function.argtypes = [
            ctypes.POINTER(structures()[kind]) if kind in structures() else field
            for parameter in parameters.split(",")
            for kind, _, field in _fields(parameter, structures())
        ]
    return library


def parse_structures(header: str) -> Structures:
    """Return the structures that a header declares, each made of numbers, pointers and structures above it.

    Raises:
        ValueError: a field is declared otherwise.
    """
    made: dict[str, type[ctypes.Structure]] = {}
    for body, name in _STRUCTURE.findall(_COMMENT.sub("", header)):
        fields = [field for line in body.split(";") if line.strip() for field in _fields(line, made)]
        made[name] = type(name, (ctypes.Structure,), {"_fields_": [(field, kind) for _, field, kind in fields]})
    return made


def _fields(declaration: str, known: Structures) -> Iterator[tuple[str, str, Any]]:
    """Yield base type, name and ctype of each of the fields that one declaration names."""
    found = _DECLARATION.fullmatch(declaration.strip())
    if found is None or found[1] not in (*_NUMBERS, *known):
        raise ValueError(f"{declaration.strip()!r}: expected {', '.join((*_NUMBERS, *known))} and names")
    for name in map(str.strip, found[2].split(",")):
        pointer = name.startswith("*")
        if not name[pointer:].isidentifier():
            raise ValueError(f"{declaration.strip()!r}: {name!r} is no name, nor a pointer of one star")
        yield found[1], name[pointer:], ctypes.c_void_p if pointer else (known.get(found[1]) or _NUMBERS[found[1]])
