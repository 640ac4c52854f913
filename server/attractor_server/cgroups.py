"""Limits of the control groups of this process: those of its container, or of its service."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")

_MOUNT: Final = "sys/fs/cgroup"


def cpu_limit(root: Path = _ROOT) -> float | None:
    """Return the cores whose time this process may use; None for no limit."""
    return _least(root, "cpu", _cpu_of)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the bytes that this process and those of its group may have; None for no limit."""
    limit = _least(root, "memory", _memory_of)
    return None if limit is None else int(limit)


def _least(root: Path, controller: str, read: Callable[[Path], float | None]) -> float | None:
    """Return the smallest limit among those of the process's group and the ones above it."""
    return min((limit for folder in _folders(root, controller) if (limit := read(folder)) is not None), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of a controller's groups, version 2 and 1; in a container a path may be that of its host."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / _MOUNT / controller if controllers else root / _MOUNT
        group = mount / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _cpu_of(folder: Path) -> float | None:
    if words := _read(folder / "cpu.max").split():
        quota, period = words
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None  # else max, or -1


def _memory_of(folder: Path) -> float | None:
    limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    return int(limit) if limit.isdigit() else None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
