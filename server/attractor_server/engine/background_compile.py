"""Compilation beside the serving: networks without a closed form are read as they are until programs are there.

Torch's compiler works for half of a minute and holds the interpreter, so that it has a process of its own
(`programs/compiler.py`), which what serves goes before. Where there is no C++ compiler nothing changes.
"""

import asyncio
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from attractor_server.energy.model import Model
from attractor_server.energy.networks import NETWORKS, EnergyNetwork, WritableNetwork
from attractor_server.engine.compute.aot import Compiled, adopt, load

logger = logging.getLogger(__name__)

COMPILER = "attractor_server.engine.compute.aot_compiler"
"""Not imported here: that takes a second"""

COMPILERS = ("g++", "clang++", "c++")
"""Unless the environment has a `CXX`"""

TIMEOUT_S = 600.0


class BackgroundCompiler:
    """Compile a program for each network among those of the models that needs one, one after another."""

    def __init__(self, models: Iterable[Model], *, threads: int) -> None:
        """`threads` is how many will run the programs, which they are compiled for."""
        self._threads = threads
        self._names: dict[EnergyNetwork, list[str]] = {}
        for model in models:
            known = model.network.kind in NETWORKS and not isinstance(model.network, WritableNetwork)
            if known and model.device.type == "cpu":
                self._names.setdefault(model.network, []).append(model.name)
        self._child: subprocess.Popen[str] | None = None
        self._ended = False
        self.took_s: dict[str, float] = {}
        """By the name of the model, as far as its network is compiled"""

    async def run(self, after: asyncio.Event) -> None:
        """Wait for that event, and return when all is compiled that can be; when cancelled, end what was begun."""
        await after.wait()
        loop = asyncio.get_running_loop()
        try:
            for network, names in self._names.items():
                await loop.run_in_executor(None, self._compile, network, names)
        finally:
            self._ended = True
            if self._child is not None:
                _end(self._child)

    def _compile(self, network: EnergyNetwork, names: Sequence[str]) -> None:
        whose, started_s = ", ".join(names), time.perf_counter()
        if not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
            logger.info("no C++ compiler among %s: %s is read without compiled programs", ", ".join(COMPILERS), whose)
            return
        logger.info("compiling what reading asks of %s, beside the serving", whose)
        try:
            with tempfile.TemporaryDirectory(prefix="attractor-") as folder:
                gains = self._gains(network, Path(folder))
                adopt(network, Compiled(network, load(Path(folder)), limit=limit_of(gains)))
        except Exception as error:  # whatever becomes of it, the network itself is there
            if not self._ended:
                logger.warning("%s is read without compiled programs: %s", whose, error)
            return
        took_s = time.perf_counter() - started_s
        self.took_s |= dict.fromkeys(names, took_s)
        told = ", ".join(f"{gain:.1f} for {patterns}" for patterns, gain in gains)
        logger.info(
            "%s is read by compiled programs after %.1f s; times as fast, for so many patterns: %s", whose, took_s, told
        )

    def _gains(self, network: EnergyNetwork, folder: Path) -> Sequence[tuple[int, float]]:
        """Make the programs in the folder, in a process of their own, and return the gains that it reports.

        Raises:
            RuntimeError: it failed; the last line that it wrote.
            TimeoutExpired: it took too long.
        """
        order = {"network": {"kind": network.kind, **network.config}, "threads": self._threads}
        command = [sys.executable, "-W", "ignore", "-m", COMPILER, str(folder)]
        inside = dict.fromkeys(("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"), str(folder))  # where nobody else may write
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env={**os.environ, **inside},
            start_new_session=True,
        ) as self._child:
            if self._ended:
                _end(self._child)
            try:
                out, err = self._child.communicate(json.dumps(order), TIMEOUT_S)
            except subprocess.TimeoutExpired:
                _end(self._child)
                raise
        if self._child.returncode:
            raise RuntimeError(err.strip().rpartition("\n")[2] or f"the compiler ended with {self._child.returncode}")
        gains: Sequence[tuple[int, float]] = json.loads(out)
        return gains


def _end(child: subprocess.Popen[str]) -> None:
    """Kill the child and what it started: a C++ compiler would go on in a folder that is taken away."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def limit_of(gains: Sequence[tuple[int, float]]) -> float:
    """Return the patterns in a batch up to which all (patterns, times as fast) are gains; infinite where all are."""
    lost = [patterns for patterns, gain in gains if gain < 1]
    return math.inf if not lost else max((patterns for patterns, _ in gains if patterns < min(lost)), default=0)
