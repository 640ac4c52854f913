"""Affinity of an open client to its event loop and process: it works nowhere else."""

import asyncio
import os

from attractor._errors import WrongLoop, WrongProcess

_processes: set[int] = set()
"""Processes that made channels: this one and, in a forked child, the ones before it."""


class Affinity:
    """Event loop and process of the code that makes it."""

    def __init__(self) -> None:
        """Call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process, without the threads that its loop and gRPC need."""
        return os.getpid() != self._process

    @property
    def defunct(self) -> bool:
        """Whether nothing that was begun there can end any more."""
        return self.forked or self._loop.is_closed()

    def check(self) -> None:
        """Refuse a caller elsewhere, who would wait without end.

        Raises:
            WrongLoop: another event loop runs here, or none.
            WrongProcess: this is a forked child.
        """
        if self.forked:
            raise WrongProcess(
                f"opened in process {self._process}, used in its forked child {os.getpid()}: open a client here"
            )
        if _get_running_loop() is not self._loop:
            raise WrongLoop("opened on another event loop than the one that runs here: open a client on this one")


def require_whole_process() -> None:
    """Refuse the forked child of a process that made channels, which would wait for threads that it does not have.

    Raises:
        WrongProcess: gRPC does not work here.
    """
    if _processes and os.getpid() not in _processes:
        raise WrongProcess(
            f"process {os.getpid()} was forked from one that had used gRPC, which does not work in forked children: "
            "open the first client after the fork, or start processes by spawn or forkserver"
        )
    _processes.add(os.getpid())


def _get_running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
