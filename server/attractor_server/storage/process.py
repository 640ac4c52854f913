"""The incarnation of a shard: one process of it, known from every other, and whether it has ended."""

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

_PROC = Path("/proc")

_STATE, _THREADS, _STARTED = 0, 17, 19
"""Places in /proc/PID/stat, behind the name of the program"""


@dataclass(frozen=True)
class Incarnation:
    """A shard of one process. The text of it stands in the store beside what it owns."""

    shard: str
    machine: str
    """The running system, and the space in which its process ids count; empty where that cannot be told"""
    process: int
    started: str
    """When the process did, on its machine's clock: an id is used again"""
    nonce: str = ""
    """Tells those of one process from each other"""

    @classmethod
    def here(cls, shard: str) -> "Incarnation":
        """Make a new one of that shard, in this process."""
        process = os.getpid()
        return cls(shard, _machine(), process, _stat(process)[-1], uuid.uuid4().hex[:12])

    @classmethod
    def of(cls, text: str) -> "Incarnation":
        """Read one from its text."""
        shard, machine, process, started, nonce = text.split(" ")
        return cls(shard, machine, int(process), started, nonce)

    def __str__(self) -> str:
        return f"{self.shard} {self.machine} {self.process} {self.started} {self.nonce}"

    @property
    def is_over(self) -> bool:
        """Whether its process is known to have ended. False also where this machine cannot tell."""
        if not self.is_here:
            return False
        state, threads, started = _stat(self.process)
        # Its first thread may be a zombie while others of it still let go of their memory and their files.
        return state in ("", "X") or (state == "Z" and threads == "1") or started != self.started

    @property
    def is_here(self) -> bool:
        """Whether its process counts among those of this machine, as far as that can be told."""
        return bool(self.machine) and self.machine == _machine()

    def end(self) -> bool:
        """Kill its process, where that is another one of this machine and still runs; return whether it was killed."""
        if not self.is_here or self.process == os.getpid() or self.is_over:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.process, SIGKILL)
        return True


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _stat(process: int) -> tuple[str, str, str]:
    """Return the state of a process, its number of threads, and when it started; all empty if there is none."""
    try:
        words = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", "", ""
    return words[_STATE], words[_THREADS], words[_STARTED]
