"""One port for connections with TLS and without, for as long as clients are changed one after another.

gRPC's ports are either. So both kinds are listened to on the loopback interface, and each connection is passed on, by
its first byte, to one of them as it is.
"""

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import anyio
from anyio import to_thread

from attractor_server.hosts import ANY_HOST

logger = logging.getLogger(__name__)

_HANDSHAKE: Final = 0x16
"""First byte of a client that speaks TLS"""

_FIRST_BYTE_S: Final = 20.0

_CHUNK_BYTES: Final = 1 << 18

_WARNED_LIMIT: Final = 1000


class MixedPort:
    """A port in front of two of gRPC's own."""

    def __init__(self, *, plain: int, secure: int) -> None:
        """Take the ports of the loopback interface for connections without TLS and with it."""
        self._ports = {False: plain, True: secure}
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._callers: dict[str, str] = {}
        self._warned: set[str] = set()

    @property
    def callers(self) -> Mapping[str, str]:
        """Addresses of the clients, as gRPC writes them, by those that gRPC sees."""
        return self._callers

    async def listen(self, host: str, port: int) -> int:
        """Listen from now on; return the port.

        Raises:
            OSError: the port is taken, or the host is not of this machine.
        """
        listening = await to_thread.run_sync(_bind, host, port)
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=_CHUNK_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Take no more connections; those that are open go on."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """End all connections."""
        self.stop_listening()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_on(reader, writer)
        finally:
            del self._connections[task]
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with anyio.move_on_after(_FIRST_BYTE_S) as scope:
            first = await reader.readexactly(1)
        if scope.cancelled_caught:
            return
        secure = first[0] == _HANDSHAKE
        caller = writer.get_extra_info("peername") or ("an unknown address", 0)
        if not secure:
            self._warn(caller[0])
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._ports[secure])
        seen = _write_peer(inner_writer.get_extra_info("sockname"))
        self._callers[seen] = _write_peer(caller)
        try:
            inner_writer.write(first)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_copy, reader, inner_writer)
                await _copy(inner_reader, writer)
                tasks.cancel_scope.cancel()  # the server has ended it
        finally:
            del self._callers[seen]
            inner_writer.close()

    def _warn(self, host: str) -> None:
        """Log, once, that a client still comes without TLS."""
        if host not in self._warned and len(self._warned) < _WARNED_LIMIT:
            self._warned.add(host)
            logger.warning("a client at %s connects without TLS; it is served, because TLS is optional", host)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy a stream to its end, as fast as it is taken."""
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; on all interfaces it takes both kinds of addresses, as gRPC's do."""
    if host in ANY_HOST and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family)


def _write_peer(address: tuple[str, int]) -> str:
    """Return an address as gRPC writes it."""
    host, port = address[0].removeprefix("::ffff:"), address[1]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
