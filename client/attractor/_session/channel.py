"""Channels and the stubs of the contract's services on them."""

import anyio
import grpc
from grpc import aio

from attractor._affinity import Affinity
from attractor._errors import AttractorError, Unavailable
from attractor._session.handshake import find_failure
from attractor._tls import Credentials
from attractor_proto.names import MESSAGE_LIMIT_BYTES
from attractor_proto.v1 import memories_pb2_grpc, memory_copies_pb2_grpc, memory_data_pb2_grpc, memory_items_pb2_grpc

_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),  # another client's failed attempts are not ours to wait for
    ("grpc.enable_retries", 0),  # repeating is decided here, where it is known what may be repeated
)
_NO_PROXY = ("grpc.enable_http_proxy", 0)
"""`http_proxy` is meant for the web: memories do not go there in plain text unless a client asks for it"""
_LAST_CALLS_S = 7200.0
"""Time for calls on a connection made with certificates of before: longer than the connection lasts"""
_FLUSH_LIMIT_S = 1.0
_LATE_S = 0.02


class Channel:
    """One connection to one address; owned by the client."""

    def __init__(self, address: str, *, use_proxy: bool, credentials: Credentials | None = None) -> None:
        """Connect at the first call; with TLS where there are `credentials`."""
        self.address = address
        self._use_proxy = use_proxy
        self._credentials = credentials
        self._former: list[tuple[float, aio.Channel]] = []
        """Channels made with certificates of before, and when they are closed"""
        self._open()

    def _open(self) -> None:
        options = _OPTIONS if self._use_proxy else (*_OPTIONS, _NO_PROXY)
        if (tls := self._credentials) is None:
            self._channel = aio.insecure_channel(self.address, options=options)
        else:
            named = ("grpc.ssl_target_name_override", tls.server_name)
            self._channel = aio.secure_channel(self.address, tls.channel_credentials, options=(*options, named))
        self._edition = tls.edition if tls else 0
        self.data = memory_data_pb2_grpc.MemoryDataStub(self._channel)
        self.memories = memories_pb2_grpc.MemoriesStub(self._channel)
        self.copies = memory_copies_pb2_grpc.CopiesStub(self._channel)
        self.items = memory_items_pb2_grpc.ItemsStub(self._channel)
        self.search = memory_items_pb2_grpc.SearchStub(self._channel)
        self.models = memories_pb2_grpc.ModelsStub(self._channel)

    async def explain(self, error: Unavailable, *, limit_s: float) -> AttractorError:
        """Return why a call could not be made, which TLS may be the reason of; else the error itself.

        Where there are other certificates by now, later calls use them.
        """
        if error.reason != Unavailable.default_reason or self._use_proxy or await self._renew():
            return error
        return await find_failure(self.address, self._credentials, limit_s) or error

    async def _renew(self) -> bool:
        """Connect anew for later calls, if there are other certificates; return whether so."""
        if self._credentials is None:
            return False
        await self._credentials.refresh()
        if self._credentials.edition == self._edition:
            return False
        now_s = anyio.current_time()
        ended = [channel for end_s, channel in self._former if end_s <= now_s]
        self._former = [(end_s, channel) for end_s, channel in self._former if end_s > now_s]
        self._former.append((now_s + _LAST_CALLS_S, self._channel))
        self._open()
        for channel in ended:
            await channel.close()
        return True

    async def close(self) -> None:
        """End every call that is under way."""
        for channel in (self._channel, *(former for _, former in self._former)):
            await channel.close()


class Channels:
    """The channels of a client."""

    def __init__(self, affinity: Affinity, *, use_proxy: bool = False, credentials: Credentials | None = None) -> None:
        """`affinity` is that of the opened client."""
        self._affinity = affinity
        self._use_proxy = use_proxy
        self._credentials = credentials
        self._open: dict[str, Channel] = {}

    def get(self, address: str) -> Channel:
        """Return the channel to that address, made at the first call."""
        if (channel := self._open.get(address)) is None:
            channel = self._open[address] = Channel(address, use_proxy=self._use_proxy, credentials=self._credentials)
        return channel

    async def close(self, channel: Channel) -> None:
        """Close one channel, even where the caller is being cancelled."""
        if self._affinity.forked:  # gRPC would wait for threads that are not here
            return
        if self._open.get(channel.address) is channel:
            del self._open[channel.address]
        with anyio.CancelScope(shield=True):
            await channel.close()

    async def close_all(self) -> None:
        """Close all channels that are open."""
        for channel in list(self._open.values()):
            await self.close(channel)


async def flush(affinity: Affinity, address: str) -> None:
    """Wait for gRPC's last events of calls and channels that were ended: they must not find a closed event loop.

    A cancelled call is done at once, its last events come later. Those that are there come in order: so one more is
    asked for, by way of a channel that never connects to the address. On a busy machine some come a moment after it.
    """
    if affinity.forked:
        return
    with anyio.move_on_after(_FLUSH_LIMIT_S, shield=True):
        async with aio.insecure_channel(address, options=(*_OPTIONS, _NO_PROXY)) as channel:
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await anyio.sleep(_LATE_S)
