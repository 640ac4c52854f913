"""The gRPC server of one shard: its settings, its services, and its end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from attractor_proto.v1 import (
    memories_pb2,
    memories_pb2_grpc,
    memory_copies_pb2,
    memory_copies_pb2_grpc,
    memory_data_pb2,
    memory_data_pb2_grpc,
    memory_items_pb2,
    memory_items_pb2_grpc,
)
from attractor_server.errors import SettingsError
from attractor_server.hosts import join_port
from attractor_server.rpc.credentials import make_server_credentials
from attractor_server.rpc.data import MemoryDataServicer
from attractor_server.rpc.fellows import Fellows
from attractor_server.rpc.gate import Gate
from attractor_server.rpc.interceptors import CallInterceptor
from attractor_server.rpc.items import ItemsServicer
from attractor_server.rpc.memories import ClusterServicer, MemoriesServicer, ModelsServicer
from attractor_server.rpc.mixed_port import MixedPort
from attractor_server.rpc.peers import Peers
from attractor_server.rpc.search import SearchServicer
from attractor_server.rpc.snapshots import CopiesServicer
from attractor_server.shard.certificates import Certificates
from attractor_server.shard.shard import Shard
from attractor_server.shard.spec import Transport

SERVICES = (
    *(service.full_name for service in memories_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in memory_copies_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in memory_data_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in memory_items_pb2.DESCRIPTOR.services_by_name.values()),
)

_SERVING = health_pb2.HealthCheckResponse.SERVING

_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class RpcServer:
    """The server of a shard, at `host` and one of `ports`; clients reach it at host `advertise`."""

    def __init__(  # noqa: PLR0913
        self,
        shard: Shard,
        *,
        host: str,
        ports: range,
        advertise: str,
        transport: Transport,
        certificates: Certificates | None = None,
    ) -> None:
        """Speak TLS where there are `certificates`."""
        self._certificates = certificates
        self._mixed: MixedPort | None = None
        fellows = Fellows(shard)
        self.peers = Peers(fellows, certificates, recorder=shard.recorder)
        self._shard = shard
        self._host = host
        self._ports = ports
        self._port = ports[0]
        self._advertise = advertise
        self._open = False
        self.serves = False
        """The health service says so"""
        self._health = health.aio.HealthServicer()
        gate = Gate(shard.identities, fellows, shard.audit)
        calls = CallInterceptor(shard.budget, shard.recorder, gate)
        self._server = aio.server(interceptors=(calls,), options=_make_options(shard, transport))
        _add_services(self._server, shard, self.peers, self._health)

    @property
    def address(self) -> str:
        """Address at which clients reach it, host:port."""
        return join_port(self._advertise, self._port)

    async def open(self) -> None:
        """Listen from now on, at the first port that is free; 0 is any. Does nothing where it listens already.

        Raises:
            SettingsError: all ports are taken, or the host is not of this machine.
        """
        if self._open:
            return
        for service in ("", *SERVICES):
            await self._health.set(service, _NOT_SERVING)
        self._port = await self._bind()
        await self._server.start()
        self._open = True

    async def _bind(self) -> int:
        mixed = self._mixed = self._open_mixed_port()
        failure: Exception | None = None
        for port in self._ports:
            try:
                if mixed is not None:
                    return await mixed.listen(self._host, port)
                return self._add_port(join_port(self._host, port))
            except (RuntimeError, OSError) as error:
                failure = error
        which = f", and the {len(self._ports) - 1} after it" if len(self._ports) > 1 else ""
        raise SettingsError(
            f"port: saw {join_port(self._host, self._ports[0])}{which}, where nothing can listen: is it taken?"
        ) from failure

    def _add_port(self, address: str) -> int:
        if self._certificates is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, make_server_credentials(self._certificates))

    def _open_mixed_port(self) -> MixedPort | None:
        """Return the port for connections with TLS and without, if both are to be served."""
        if self._certificates is None or not self._certificates.files.optional:
            return None
        inside = join_port("127.0.0.1", 0)
        mixed = MixedPort(plain=self._server.add_insecure_port(inside), secure=self._add_port(inside))
        self.peers.fellows.callers = mixed.callers
        return mixed

    async def ready(self) -> None:
        """Tell the health service that this shard serves."""
        self.serves = True
        for service in ("", *SERVICES):
            await self._health.set(service, _SERVING)

    async def drain(self, grace_s: float) -> bool:
        """Send clients away, finish what was accepted, and stop. Return whether everything was finished in time."""
        end_s = anyio.current_time() + grace_s
        self.serves = False
        self._shard.draining.set()
        await self._health.enter_graceful_shutdown()
        if self._mixed is not None:
            self._mixed.stop_listening()
        with anyio.move_on_after(grace_s):
            await self._shard.batcher.wait_until_idle()
        finished = self._shard.batcher.idle
        await self._server.stop(max(0.0, end_s - anyio.current_time()))
        return finished and self._shard.batcher.idle

    async def close(self) -> None:
        """End every call that is under way, and the connections to other shards."""
        await self._server.stop(None)
        if self._mixed is not None:
            await self._mixed.close()
        await self.peers.close()


@asynccontextmanager
async def open_server(  # noqa: PLR0913
    shard: Shard,
    *,
    host: str,
    ports: range,
    advertise: str,
    transport: Transport,
    certificates: Certificates | None = None,
) -> AsyncIterator[RpcServer]:
    """Make a server with all services of a shard, to be opened in the block and closed after it."""
    server = RpcServer(
        shard, host=host, ports=ports, advertise=advertise, transport=transport, certificates=certificates
    )
    try:
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await server.close()


def _add_services(server: aio.Server, shard: Shard, peers: Peers, state: health.aio.HealthServicer) -> None:
    memory_data_pb2_grpc.add_MemoryDataServicer_to_server(MemoryDataServicer(shard, peers), server)
    memories_pb2_grpc.add_MemoriesServicer_to_server(MemoriesServicer(shard, peers), server)
    memory_copies_pb2_grpc.add_CopiesServicer_to_server(CopiesServicer(shard, peers), server)
    memory_items_pb2_grpc.add_ItemsServicer_to_server(ItemsServicer(shard, peers), server)
    memory_items_pb2_grpc.add_SearchServicer_to_server(SearchServicer(shard, peers), server)
    memories_pb2_grpc.add_ModelsServicer_to_server(ModelsServicer(shard), server)
    memories_pb2_grpc.add_ClusterServicer_to_server(ClusterServicer(shard), server)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


def _make_options(shard: Shard, transport: Transport) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", shard.limits.message_bytes),
        ("grpc.max_send_message_length", shard.limits.message_bytes),
        # A few kilobytes could grow to gigabytes before their length is looked at: nothing compressed is taken.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_concurrent_streams", transport.concurrent_streams),
        ("grpc.keepalive_time_ms", round(transport.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(transport.keepalive_timeout_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", round(transport.ping_interval_s * 1000)),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", round(transport.idle_s * 1000)),
        ("grpc.max_connection_age_ms", round(transport.age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", round(transport.age_grace_s * 1000)),
        ("grpc.so_reuseport", 0),  # else a second server on the same port would take half of the connections
    ]
