"""Custom resources, held to the definitions in the folder that ATTRACTOR_CRDS names; unknown fields are errors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

FOLDER = os.environ.get("ATTRACTOR_CRDS", "")
Schema = Any
Key = tuple[str, str]


def schemas(folder: Path) -> Mapping[Key, Schema]:
    """Those of all definitions there, by apiVersion and kind."""
    found: dict[Key, Schema] = {}
    for path in sorted(folder.rglob("*.yaml")):
        definition = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        for version in definition["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {name: {} for name in ("metadata", "apiVersion", "kind", "status")}
            found[f"{definition['group']}/{version['name']}", definition["names"]["kind"]] = schema
    return found


def strict(schema: Schema) -> Schema:
    """A schema that takes no other properties than it names, as Kubernetes prunes them without a word."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    made = {name: strict(value) for name, value in schema.items() if not _is_foreign(name, value)}
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def _is_foreign(name: str, value: object) -> bool:
    """Whether it is a pattern in Go's form, which Python does not read."""
    return name == "pattern" and "(?i)" in str(value)


def check(document: Mapping[str, Any], known: Mapping[Key, Schema]) -> None:
    Draft202012Validator(known[document["apiVersion"], document["kind"]]).validate(document)
