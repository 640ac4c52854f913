"""Build hooks of `attractor-server`: fields that the repository's `pyproject.toml` holds for every distribution."""

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SharedMetadata(MetadataHookInterface):
    """Copy the fields of all distributions; an sdist has them in its PKG-INFO, and does not come here."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the dynamic fields."""
        top = tomllib.loads((Path(self.root).parent / "pyproject.toml").read_text("utf-8"))
        groups, version = top["dependency-groups"], top["project"]["version"]
        metadata |= {name: top["project"][name] for name in ("version", "requires-python", "keywords", "classifiers")}
        metadata["dependencies"] = [f"attractor=={version}", *groups["server"]]
        metadata["optional-dependencies"] = {"train": groups["train"]}
