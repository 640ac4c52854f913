"""Build hook of `attractor-agents`: fields that every distribution has, and the extras."""

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PREFIX = "agents-"


class SharedMetadata(MetadataHookInterface):
    """Copy the fields of all distributions; an sdist has them in its PKG-INFO, and does not come here."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the dynamic fields."""
        top = tomllib.loads((Path(self.root).parents[1] / "pyproject.toml").read_text("utf-8"))
        groups, version = top["dependency-groups"], top["project"]["version"]
        metadata |= {name: top["project"][name] for name in ("version", "requires-python", "keywords", "classifiers")}
        metadata["dependencies"] = [f"attractor=={version}", "anyio>=4.9", "numpy>=1.26"]
        extras = [group for group in groups if group.startswith(PREFIX)]
        metadata["optional-dependencies"] = {extra.removeprefix(PREFIX): groups[extra] for extra in extras}
