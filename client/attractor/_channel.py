"""Channels and the stubs of the contract's services on them."""

import anyio
from grpc import aio

from attractor_proto.names import MESSAGE_LIMIT_BYTES
from attractor_proto.v1 import memories_pb2_grpc, memory_copies_pb2_grpc, memory_data_pb2_grpc

_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),  # another client's failed attempts are not ours to wait for
    ("grpc.enable_http_proxy", 0),  # `http_proxy` is meant for the web; memories do not go to it in plain text
    ("grpc.enable_retries", 0),  # repeating is decided here, where it is known what may be repeated
)


class Channel:
    """One connection to one address; owned by the client."""

    def __init__(self, address: str) -> None:
        """Connects at the first call."""
        self.address = address
        self._channel = aio.insecure_channel(address, options=_OPTIONS)
        self.data = memory_data_pb2_grpc.MemoryDataStub(self._channel)
        self.memories = memories_pb2_grpc.MemoriesStub(self._channel)
        self.copies = memory_copies_pb2_grpc.CopiesStub(self._channel)
        self.models = memories_pb2_grpc.ModelsStub(self._channel)

    async def close(self) -> None:
        """Ends every call that is under way."""
        await self._channel.close()


class Channels:
    """The channels of a client."""

    def __init__(self) -> None:
        self._open: dict[str, Channel] = {}

    def to(self, address: str) -> Channel:
        """The channel to that address, made when first asked for."""
        if (channel := self._open.get(address)) is None:
            channel = self._open[address] = Channel(address)
        return channel

    async def close(self, channel: Channel) -> None:
        """Closes one, even where the caller is being cancelled."""
        if self._open.get(channel.address) is channel:
            del self._open[channel.address]
        with anyio.CancelScope(shield=True):
            await channel.close()

    async def close_all(self) -> None:
        """Closes those that are left."""
        for channel in list(self._open.values()):
            await self.close(channel)
