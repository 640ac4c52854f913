"""Processes that are killed or stopped, in the server as users start it."""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack

import psutil
from tests.chaos.tally import Run, fault, pause
from tests.cluster.process import ServerProcess, server_process, until

SHARDS = 2
PAUSE_S = float(os.environ.get("CHAOS_PAUSE_S", "8"))
"""Longer than a shard may go unheard of before another takes its place"""


def arguments(run: Run) -> Sequence[str]:
    """With ports that are named: any other would be another one after a restart."""
    data, port = str(run.folder / "data"), str(_port(run))
    return ("--models", str(run.models), "--shards", str(SHARDS), "--port", port, "--data-dir", data)


def _port(run: Run) -> int:
    """The first of as many free ports as there are shards, below those that the system hands out."""
    while True:
        first = run.random.randrange(10_000, 30_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + SHARDS):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return first


def victim(run: Run, server: ServerProcess) -> psutil.Process:
    """A shard's process, as soon as all are there."""
    until(lambda: len(server.shard_processes()) == SHARDS)
    return run.random.choice(list(server.shard_processes().values()))


@fault("kill-shard", times=100)
def kill_shard(run: Run) -> None:
    """`kill -9` of a shard at a random moment."""
    with server_process(*arguments(run)) as server, run.checker(server.address) as checker:
        for _ in run.turns(checker):
            victim(run, server).kill()


@fault("pause-shard", times=40)
def pause_shard(run: Run) -> None:
    """SIGSTOP of a shard for longer than a lease, then SIGCONT."""
    with server_process(*arguments(run)) as server, run.checker(server.address) as checker:
        for _ in run.turns(checker):
            stopped = victim(run, server)
            stopped.suspend()
            pause(PAUSE_S)
            if stopped.is_running():  # whoever took over may have ended it
                stopped.send_signal(signal.SIGCONT)


@fault("kill-server", times=30)
def kill_server(run: Run) -> None:
    """`kill -9` of the whole server, then a start of the next."""
    with ExitStack() as stack:
        words = arguments(run)
        server = stack.enter_context(server_process(*words))
        with run.checker(server.address) as checker:
            for _ in run.turns(checker):
                server.kill()
                stack.close()
                server = stack.enter_context(server_process(*words))
