"""Processes that are killed, in the server as users start it."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

import psutil
from tests.chaos.tally import Run, fault
from tests.support.cluster_calls import supervisors
from tests.support.server_process import ServerProcess, drained, server_process, until

SHARDS, SHARDS_MOST = 2, 3


def arguments(run: Run, *kept: str, shards: int = SHARDS) -> Sequence[str]:
    """With ports that are named: any other would be another one after a restart. In a folder, unless told otherwise."""
    kept = kept or ("--data-dir", str(run.folder / "data"))
    return ("--models", str(run.models), "--shards", str(shards), "--port", str(_port(run)), *kept)


def _port(run: Run) -> int:
    """The first of as many free ports as there are shards, below those that the system hands out."""
    while True:
        first = run.random.randrange(10_000, 30_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + SHARDS_MOST):
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


@fault("supervisor", times=10)
def supervisor(run: Run) -> None:
    """`kill -9` of the supervisor: all is served meanwhile, and it comes back."""
    with server_process(*arguments(run)) as server, run.checker(server.address) as checker:
        for _ in run.turns(checker):
            until(lambda: len(supervisors(server)) == 1)
            (killed,) = supervisors(server)
            drained(server.errors)
            killed.kill()
            checker.served()
            lines: list[str] = []

            def is_back(lines: list[str] = lines) -> bool:
                lines.extend(drained(server.errors))
                return any("the supervisor answers again" in line for line in lines)

            until(is_back)


@fault("kill-server", times=30)
def kill_server(run: Run) -> None:
    """`kill -9` of the whole server, while a stand-in serves in it or when shards do, and a start of the next."""
    with ExitStack() as stack:
        words = arguments(run)
        server = stack.enter_context(server_process(*words, early=True))
        with run.checker(server.address) as checker:
            for _ in run.turns(checker):
                if run.random.random() < 1 / 2:
                    server.relieve()
                server.kill()
                stack.close()
                server = stack.enter_context(server_process(*words, early=True))
