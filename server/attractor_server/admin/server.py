"""The admin port: uvicorn, on the shard's own event loop, so that a probe says whether that turns."""

import contextlib
import socket
from collections.abc import Iterator

import anyio
import uvicorn
from anyio.abc import TaskGroup

from attractor_server.admin.pages import AdminPages
from attractor_server.errors import SettingsError
from attractor_server.hosts import join_port

GRACE_S = 1

IDLE_S = 75
"""Longer than the time between two scrapes"""

CALLS_LIMIT = 64


class _Server(uvicorn.Server):
    """A server of which the process's signals are none of its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class AdminServer:
    """The admin port of a shard, at `host` and one of `ports`. `bind` and `start` it on one event loop."""

    def __init__(self, pages: AdminPages, *, host: str, ports: range) -> None:
        self._pages = pages
        self._host = host.strip("[]")
        self._ports = ports
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None

    @property
    def address(self) -> str:
        """Address that it listens on, host:port; empty while it does not."""
        return "" if self._socket is None else join_port(self._host, self._socket.getsockname()[1])

    def bind(self) -> None:
        """Take the first port that is free; 0 is any. Does nothing where it has one already.

        Raises:
            SettingsError: all ports are taken, or the host is not of this machine.
        """
        if self._socket is None:
            self._socket = self._find_port()

    def start(self, tasks: TaskGroup) -> None:
        """Answer from now on at the port that `bind` took, until the tasks are cancelled; only the first time."""
        assert self._socket is not None
        if self._server is not None:
            return
        config = uvicorn.Config(
            self._pages,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CALLS_LIMIT,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Server(config)
        tasks.start_soon(self._run, self._server, self._socket)

    @staticmethod
    async def _run(server: uvicorn.Server, listening: socket.socket) -> None:
        try:
            await server.serve(sockets=[listening])
        finally:
            if server.started and not server.should_exit:  # cancelled
                with anyio.CancelScope(shield=True):
                    await server.shutdown(sockets=[listening])
            listening.close()

    def _find_port(self) -> socket.socket:
        failure: OSError | None = None
        for port in self._ports:
            try:
                family, *_, address = socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)[0]
                both = self._host == "::" and socket.has_dualstack_ipv6()  # as gRPC takes it
                return socket.create_server(address, family=family, dualstack_ipv6=both)
            except OSError as error:
                failure = error
        which = f", and the {len(self._ports) - 1} after it" if len(self._ports) > 1 else ""
        raise SettingsError(
            f"admin_port: saw {join_port(self._host, self._ports[0])}{which}, where nothing can listen: is it taken?"
        ) from failure
