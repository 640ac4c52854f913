"""A server as users start it: the command in a process of its own, with Ray inside."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

COMMAND = (str(Path(sys.executable).parent / "attractor"),)
STANDS_IN = "Ray is starting"
READY = re.compile(r"ready on (\S+:\d+)")
KEPT = re.compile(r"memories are kept in (.+)")


@dataclass
class ServerProcess:
    """A running `attractor serve`."""

    process: "subprocess.Popen[str]"
    ready: str
    errors: "queue.SimpleQueue[str]"

    @property
    def address(self) -> str:
        match = READY.search(self.ready)
        assert match is not None
        return match[1]

    @property
    def port(self) -> str:
        """Where the first shard listens, and a stand-in before it."""
        return self.address.rpartition(":")[2]

    @property
    def folder(self) -> str:
        """The folder of its memories, where it has one."""
        match = KEPT.search(self.ready)
        assert match is not None
        return match[1]

    def shard_processes(self) -> dict[int, psutil.Process]:
        """The processes of the shards, by the port each listens on."""
        return shards_among(psutil.Process(self.process.pid).children(recursive=True))

    def relieve(self) -> None:
        """Waits until shards in Ray have taken over from the stand-in."""
        assert STANDS_IN in self.ready
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        assert "shard" in self.ready, f"the server ended: {drained(self.errors)}"

    def kill(self) -> None:
        """Ends the command and all its processes at once, as a crash of the machine would."""
        kill(self.process)
        self.process.wait(60)

    def stop(self, timeout_s: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def server_process(*arguments: str, early: bool = False) -> Iterator[ServerProcess]:
    """The server, from its ready line on; ended, however the block ends, and all it started with it.

    It keeps memories only where the arguments name a folder or a database for them. Where a stand-in serves first, that
    is the line that says that shards in Ray do, unless it is to be `early`: then it is killed in the end, rather than
    let to start Ray first.
    """
    beyond = ("--insecure",) if {"--host", "--ray-address"} & {*arguments} else ()
    kept = () if {"--data-dir", "--backend-store-uri"} & {*arguments} else ("--durable", "no")
    process = subprocess.Popen(
        [*COMMAND, "serve", "--warm-up", "no", *kept, *beyond, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, errors))
    reader.start()
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        server = ServerProcess(process, process.stdout.readline(), errors)
        assert server.ready, f"the server ended: {drained(errors)}"
        if STANDS_IN in server.ready and not early:
            server.relieve()
        family = psutil.Process(process.pid).children(recursive=True)
        yield server
    finally:
        if process.poll() is None:
            if early:
                kill(process)
            else:
                process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in family:
            if child.is_running():
                child.kill()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def kill(process: "subprocess.Popen[str]") -> None:
    """Ends a process and all below it at once."""
    above = psutil.Process(process.pid)
    for one in [above, *above.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def remove_home(patch: pytest.MonkeyPatch) -> None:
    """Give servers a home that cannot be written to, nor made; what is compiled for all servers is still found."""
    from attractor_server.cluster.ray_node import TOKENS  # noqa: PLC0415 - loads ray

    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    patch.setenv("XDG_CACHE_HOME", cache)
    patch.setenv("HOME", "/proc/nobody")
    for name in TOKENS:
        patch.delenv(name, raising=False)


def until(condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
    """Looks again and again: what another process does is no event here."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.05)


def drained(lines: "queue.SimpleQueue[str]") -> Sequence[str]:
    found = []
    while not lines.empty():
        found.append(lines.get())
    return found


def _read(process: "subprocess.Popen[str]", errors: "queue.SimpleQueue[str]") -> None:
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            errors.put(line)


def words(process: psutil.Process) -> Sequence[str]:
    """Its name and command; none if it is no more."""
    try:
        return [process.name(), *process.cmdline()]
    except psutil.Error:  # a zombie has no command either
        return ()


def shards_among(processes: Sequence[psutil.Process]) -> dict[int, psutil.Process]:
    """Those of shards, by the port each listens on."""
    shards = [one for one in processes if any("ShardActor" in word for word in words(one))]
    return {port: one for one in shards for port in _ports(one)}


_HERE = ("127.0.0.1", "::", "0.0.0.0")
"""Addresses of this machine, as sockets have them that listen on one or on all"""


def _ports(process: psutil.Process) -> Sequence[int]:
    """Its ports of this machine, but for Ray's, which was opened before them."""
    try:
        connections = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return ()
    listening = sorted((one for one in connections if one.status == psutil.CONN_LISTEN), key=lambda one: one.fd)
    return [one.laddr.port for one in listening[1:] if one.laddr.ip.removeprefix("::ffff:") in _HERE]
