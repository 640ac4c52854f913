"""Load the native library: the package's where the processor can run it, else one compiled here and kept."""

import ctypes
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from attractor_server.engine.compute.native.build import (
    COMPILERS,
    FOLDER,
    HOST_FLAGS,
    LEVELS,
    compile_library,
    cpu_flags,
    digest_of,
    find_compiler,
)
from attractor_server.engine.compute.native.interface import declare_functions

logger = logging.getLogger(__name__)

WITHOUT = "reads and writes on the CPU run without native kernels, at half the speed"


@cache
def library() -> ctypes.CDLL | None:
    """Load the library, once a process; where there is none log a warning and return None."""
    found = load_shipped()
    if found is None:
        found = load_compiled()
    return None if found is None else declare_functions(found)


def describe_library() -> tuple[bool, str]:
    """Return whether this machine has the library, and which one; compile nothing."""
    if (path := find_shipped()) is not None:
        return True, f"{path}, from the package"
    compiler = find_compiler()
    if compiler is None:
        return False, f"none that fits, and no C compiler among {', '.join(COMPILERS)}: {WITHOUT}"
    path = cache_path(compiler)
    if is_ours(path.parent) and is_ours(path):
        return True, f"{path}, compiled here by {compiler}"
    return True, f"{compiler} compiles it at the first start"


def find_shipped(folder: Path = FOLDER) -> Path | None:
    """Return the binary that came with the package, if this processor has the instructions that it uses."""
    level = LEVELS.get(platform.machine())
    if level is None or not (folder / level.file_name).is_file() or not level.needs <= cpu_flags():
        return None
    return folder / level.file_name


def load_shipped(folder: Path = FOLDER) -> ctypes.CDLL | None:
    """Load the binary that came with the package; None where none fits."""
    path = find_shipped(folder)
    try:
        return None if path is None else ctypes.CDLL(str(path))
    except OSError as error:
        logger.warning("the native library of the package cannot be loaded, and is compiled here instead: %s", error)
        return None


def load_compiled(compilers: Sequence[str] = COMPILERS) -> ctypes.CDLL | None:
    """Load the library that was compiled on this machine, compiled now if need be; None where that fails."""
    compiler = find_compiler(compilers)
    if compiler is None:
        logger.warning("no C compiler among %s: %s", ", ".join(compilers), WITHOUT)
        return None
    try:
        return _load_kept(cache_path(compiler), compiler)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s, since they cannot be compiled: %s", WITHOUT, getattr(error, "stderr", None) or error)
        return None


def cache_path(compiler: str) -> Path:
    """Return where the library that this compiler makes here is kept."""
    from platformdirs import user_cache_path  # noqa: PLC0415 - the engine is imported without it

    return user_cache_path("attractor") / "native" / f"kernels-{digest_of(compiler)}.so"


def is_ours(path: Path) -> bool:
    """Return whether it belongs to this user, is no link, and nobody else can write to it."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and not found.st_mode & 0o022
    return False


def _load_kept(path: Path, compiler: str) -> ctypes.CDLL:
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    safe = is_ours(path.parent)
    if not safe:
        logger.warning("%s is no folder of this user alone: native kernels are compiled at each start", path.parent)
    elif is_ours(path):
        with suppress(OSError):  # it is damaged
            return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory(prefix="attractor-") as folder:
        made, started = Path(folder) / "kernels.so", time.perf_counter()
        _compile_for_host(made, compiler)
        logger.info("native kernels compiled by %s in %.1f s", compiler, time.perf_counter() - started)
        kept = safe and _keep(made, path)
        return ctypes.CDLL(str(path if kept else made))  # once it is loaded its file is not needed


def _keep(made: Path, path: Path) -> bool:
    """Put a copy there in one step, since other shards may do so too; False where there is no room."""
    try:
        with tempfile.TemporaryDirectory(prefix="attractor-", dir=path.parent) as folder:
            copy = Path(shutil.copyfile(made, Path(folder) / path.name))
            copy.chmod(0o600)
            copy.replace(path)
    except OSError as error:
        logger.warning("native kernels are compiled at each start, since they cannot be kept: %s", error)
        return False
    return True


def _compile_for_host(target: Path, compiler: str) -> None:
    for flags in HOST_FLAGS[:-1]:
        with suppress(subprocess.CalledProcessError):  # it may not know the flag
            return compile_library(target, compiler, flags)
    return compile_library(target, compiler, HOST_FLAGS[-1])
