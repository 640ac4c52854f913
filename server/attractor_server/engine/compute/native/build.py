"""Compile the native library, for the wheel or for the machine that serves.

Needs the standard library alone, since the hook that builds the wheel runs this file where nothing else is installed.
"""

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = ("bilinear.c", "frames.c", "kept.c", "quadratic.c")
HEADERS = ("kernels.h", "vectors.h", "frames.h", "common.h")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
HOST_FLAGS = (("-march=native",), ("-mcpu=native",), ())
"""In the order they are tried: compilers for ARM may know only the second, or neither"""
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Level:
    """An instruction set that wheels are compiled for."""

    name: str
    flags: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    """CPU flags, as Linux names them"""

    @property
    def file_name(self) -> str:
        """Name of the library's file in the package."""
        return f"kernels-{self.name}.so"


LEVELS = {
    "x86_64": Level(
        name="x86-64-v3",
        flags=("-march=x86-64-v3",),
        needs=frozenset({"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"}),
    ),
    "aarch64": Level(name="aarch64"),
    "arm64": Level(name="arm64"),  # as macOS calls it
}
"""By machine; elsewhere the library is compiled where it runs"""


def find_compiler(names: Sequence[str] = COMPILERS) -> str | None:
    """Return the path of the first of these compilers that is installed."""
    return next((path for path in map(shutil.which, names) if path), None)


def compile_library(target: Path, compiler: str, flags: Sequence[str], sources: Sequence[str] = SOURCES) -> None:
    """Compile the sources into one library.

    Raises:
        OSError: the compiler cannot be run.
        subprocess.SubprocessError: it failed; `stderr` says why.
    """
    command = [compiler, *FLAGS, *flags, "-o", str(target), *(str(FOLDER / source) for source in sources)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)


def cpu_description() -> str:
    """Return the lines of the system that tell processors apart, of its first one; empty where it has none."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0]
    except OSError:
        return platform.processor()
    told = ("flags", "Features", "model name", "CPU part")
    return "\n".join(line for line in first.splitlines() if line.startswith(told))


def cpu_flags() -> frozenset[str]:
    """Return the instruction sets of this processor, as Linux names them; empty on other systems."""
    lines = (line.partition(":") for line in cpu_description().splitlines())
    told = (value.split() for name, _, value in lines if name.strip() in ("flags", "Features"))
    return frozenset(flag for flags in told for flag in flags)


def digest_of(compiler: str) -> str:
    """Return a digest of all that a library compiled for this machine depends on."""
    said = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=TIMEOUT_S).stdout
    here = (FLAGS, HOST_FLAGS, compiler, platform.machine(), cpu_description())
    parts = [repr(here).encode(), said]
    parts += [(FOLDER / name).read_bytes() for name in (*SOURCES, *HEADERS)]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
