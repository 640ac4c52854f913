"""Table of the chart's values, from `values.yaml`, in the form of helm-docs.

A comment that begins with `# --` describes the key below it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

MARK: Final = '{{ template "chart.valuesTable" . }}'
"""Place of the table in `README.md.gotmpl`, for helm-docs as well"""

_BEGIN: Final = "# --"


@dataclass(frozen=True)
class Row:
    """A value: its path, default and description."""

    key: str
    default: Any
    description: str


def make_table(text: str) -> str:
    """Return the table of a file of values, in Markdown."""
    rows = [_format(row) for row in _walk(yaml.compose(text, yaml.SafeLoader), text.splitlines(), ())]
    return "\n".join(["| Key | Type | Default | Description |", "| --- | --- | --- | --- |", *rows])


def find_undescribed(text: str) -> Sequence[str]:
    """Return the keys that no comment describes."""
    return [row.key for row in _walk(yaml.compose(text, yaml.SafeLoader), text.splitlines(), ()) if not row.description]


def _walk(node: yaml.MappingNode, lines: Sequence[str], above: tuple[str, ...]) -> Iterator[Row]:
    """Yield a row for each value, and for a mapping as a whole where it is described and none in it is."""
    for key, value in node.value:
        path = (*above, str(key.value))
        description = _describe(lines, key.start_mark.line)
        spread_out = isinstance(value, yaml.MappingNode) and not value.flow_style
        within = list(_walk(value, lines, path)) if spread_out else []
        if within and (not description or any(row.description for row in within)):
            if description:
                yield Row(".".join(path), None, description)
            yield from within
        else:
            yield Row(".".join(path), _load(value), description)


def _describe(lines: Sequence[str], place: int) -> str:
    """Return the description above a line; empty where there is none."""
    found: list[str] = []
    for line in reversed(lines[:place]):
        text = line.strip()
        if not text.startswith("#"):
            return ""
        found.append(text.removeprefix(_BEGIN).removeprefix("#").strip())
        if text.startswith(_BEGIN):
            return " ".join(reversed(found))
    return ""


def _load(node: yaml.Node) -> object:
    return yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))


def _format(row: Row) -> str:
    kinds: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object"}
    if row.default is None:
        return f"| {row.key} | object | | {row.description} |"
    default = json.dumps(row.default, ensure_ascii=False)
    return f"| {row.key} | {kinds[type(row.default)]} | `{default}` | {row.description.replace('|', '&#124;')} |"
