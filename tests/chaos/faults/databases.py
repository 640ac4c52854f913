"""PostgreSQL restarts, and its connections are cut."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.checker import Checker
from tests.chaos.faults.killing import arguments
from tests.chaos.tally import NotPossible, Run, fault, pause
from tests.support.postgresql import PROGRAMS, PostgresServer, running
from tests.support.server_process import server_process

AWAY_S = 3.0
"""Longer than a lease"""
CUTS, APART_S = 8, 0.5


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """A database server of this run's own.

    Raises:
        NotPossible: its programs are not here.
    """
    if PROGRAMS is None:
        raise NotPossible("PostgreSQL is not installed")
    with running() as server:
        yield server


@contextmanager
def _served(run: Run) -> Iterator[tuple[PostgresServer, Checker]]:
    """A server of two shards that keeps memories there."""
    with (
        postgres() as database,
        server_process(*arguments(run, "--backend-store-uri", database.store())) as server,
        run.checker(server.address) as checker,
    ):
        yield database, checker


@fault("postgres-restart", times=10)
def postgres_restart(run: Run) -> None:
    """PostgreSQL stops as in a crash, and starts up to 3 s later."""
    with _served(run) as (database, checker):
        for _ in run.turns(checker):
            database.stop()
            pause(run.random.uniform(0, AWAY_S))
            database.start()


@fault("postgres-cut", times=10)
def postgres_cut(run: Run) -> None:
    """All connections to PostgreSQL are cut, eight times at random moments."""
    with _served(run) as (database, checker):
        for _ in run.turns(checker):
            for _ in range(CUTS):
                database.cut_off()
                pause(run.random.uniform(0, APART_S))
