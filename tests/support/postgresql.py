"""A PostgreSQL server of the tests' own, from the programs that Debian's package brings."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

_INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
PROGRAMS = _INSTALLED[-1].parent if _INSTALLED else None
"""Folder of the newest one that is installed; None for none"""
WAIT_S = 60


class PostgresServer:
    """It sorts text otherwise than by its bytes, as many do."""

    def __init__(self, folder: Path) -> None:
        self._data, self._log, self._count = folder / "data", folder / "log", 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._run("initdb", "--no-sync", "--auth=trust", "--username=attractor", "--encoding=UTF8", *_SORTED)

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._data.parent}"
        self._run("pg_ctl", "--wait", f"--log={self._log}", f"--options={options}", "start")
        self._main = int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def stop(self) -> None:
        """Cuts off who is connected, as a crash would."""
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def kill(self) -> None:
        """Ends its processes at once, as a power cut does: none of them reads or writes a file any more."""
        main = psutil.Process(self._main)
        processes = [*main.children(recursive=True), main]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, WAIT_S)

    def store(self) -> str:
        """The address of a new and empty store."""
        self._count += 1
        name = f"store_{self._count}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.uri}?options={quote(f'-c search_path={name}')}"

    @property
    def uri(self) -> str:
        return f"postgresql://attractor@127.0.0.1:{self._port}/postgres"

    def execute(self, statement: str, uri: str = "") -> None:
        """Runs statements on a connection of their own."""
        with psycopg.connect(uri or self.uri, autocommit=True) as connection:
            connection.execute(statement.encode())

    def cut_off(self) -> None:
        """Ends every connection but the one that says so."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

    def _run(self, program: str, *arguments: str) -> None:
        assert PROGRAMS is not None
        user = _unprivileged()
        subprocess.run(
            [PROGRAMS / program, "--pgdata", self._data, *arguments],
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=WAIT_S,
            check=True,
        )


@contextmanager
def running() -> Iterator[PostgresServer]:
    with postgres_folder() as folder:
        server = PostgresServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgres_folder() -> Iterator[Path]:
    """A folder for the time of the block that is PostgreSQL's."""
    folder = Path(tempfile.mkdtemp(prefix="attractor-postgres-"))  # not below pytest's, which only its user may enter
    give(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def give(folder: Path) -> None:
    """Makes a folder belong to whom PostgreSQL runs as."""
    if (user := _unprivileged()) is not None:
        shutil.chown(folder, user)


_SORTED = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")


def _unprivileged() -> str | None:
    """Whom PostgreSQL runs as: it refuses root."""
    return "postgres" if os.geteuid() == 0 else None
