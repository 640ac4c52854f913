"""Findings: what `attractor doctor` says of one thing after another."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "wrong"]

LITTLE_BYTES, TOO_LITTLE_BYTES = 1 << 30, 64 << 20


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    level: Level
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.level:8} {self.what:18} {self.detail}"


def examine_folder(what: str, folder: Path) -> Finding:
    """Find out whether a folder is writable, with room; where it is not made yet, the folder that it will be in."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("wrong", what, f"{there} cannot be written to: {error.strerror}")
    level: Level = "ok" if free >= LITTLE_BYTES else "warning" if free >= TOO_LITTLE_BYTES else "wrong"
    return Finding(level, what, f"{folder} is writable, {free / (1 << 30):.1f} GiB are free")
