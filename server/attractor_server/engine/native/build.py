"""C sources beside this file as libraries: compiled where they run, for that processor, before any request."""

import ctypes
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
TIMEOUT_S = 60.0


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The library made of `name`.c, once a process; None, and a line in the log, where it cannot be made."""
    return built(Path(__file__).with_name(f"{name}.c"), COMPILERS)


def built(source: Path, compilers: Sequence[str]) -> ctypes.CDLL | None:
    """The source as a library, by the first of these compilers that is there; None where none is, or it fails."""
    compiler = next((path for path in map(shutil.which, compilers) if path), None)
    if compiler is None:
        logger.info("no C compiler among %s: %s runs without its kernel", ", ".join(compilers), source.stem)
        return None
    with tempfile.TemporaryDirectory(prefix="attractor-") as folder:
        target = Path(folder) / f"{source.stem}.so"
        command = [compiler, *FLAGS, "-o", str(target), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
            return ctypes.CDLL(str(target))  # once it is loaded its file is not needed
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            logger.warning("%s runs without its kernel, which cannot be compiled: %s", source.stem, said)
            return None
