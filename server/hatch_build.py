"""Build hooks of `attractor-server`: fields that every distribution has, and the native library in the wheel."""

import platform
import re
import subprocess
import tempfile
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface
from packaging.tags import platform_tags

NATIVE = Path("attractor_server/engine/compute/native")
OLDEST_GLIBC = (2, 17)


class SharedMetadata(MetadataHookInterface):
    """Copy the fields of all distributions; an sdist has them in its PKG-INFO, and does not come here."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the dynamic fields."""
        top = tomllib.loads((Path(self.root).parent / "pyproject.toml").read_text("utf-8"))
        groups, version = top["dependency-groups"], top["project"]["version"]
        metadata |= {name: top["project"][name] for name in ("version", "requires-python", "keywords", "classifiers")}
        metadata["dependencies"] = [f"attractor=={version}", *groups["server"]]
        metadata["optional-dependencies"] = {extra: groups[extra] for extra in ("otel", "train")}


class NativeLibrary(BuildHookInterface[BuilderConfig]):
    """Compile the native library into the wheel, which is then one of this platform.

    Without a compiler, or on a machine that has no level, the wheel is for every platform and brings the sources alone.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library to the files of the wheel."""
        if version == "editable":  # compiled where it runs, at the first start
            return
        build = _load_build(Path(self.root) / NATIVE / "build.py")
        level, compiler = build.LEVELS.get(platform.machine()), build.find_compiler()
        if level is None or compiler is None:
            self.app.display_warning(
                f"no native library in the wheel: no {'compiler' if level else 'level for this machine'}"
            )
            return
        self._folder = tempfile.TemporaryDirectory(prefix="attractor-")
        library = Path(self._folder.name) / level.file_name
        try:
            build.compile_library(library, compiler, level.flags)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"the native library cannot be compiled: {error.stderr}") from error
        build_data["force_include"][str(library)] = str(NATIVE / level.file_name)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{oldest_platform(library)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled."""
        if folder := getattr(self, "_folder", None):
            folder.cleanup()


def oldest_platform(library: Path) -> str:
    """Return the tag of the oldest platform that the library runs on: with glibc by the versions of what it calls."""
    if platform.libc_ver()[0] != "glibc":
        return next(platform_tags())
    called = [(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())]
    major, minor = max(OLDEST_GLIBC, *called)
    return f"manylinux_{major}_{minor}_{platform.machine()}"


def _load_build(path: Path) -> ModuleType:
    """Import a file alone, since its package needs what is not installed where wheels are built."""
    spec = spec_from_file_location("attractor_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
