"""Unary calls: memories by name, and models."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC
from itertools import count
from typing import Protocol, TypeAlias, TypeVar

import anyio
import grpc
from google.protobuf.json_format import MessageToDict
from grpc import aio

from attractor._concurrency import raise_if_cancelled
from attractor._errors import Closed, NotFound, TimeoutExceeded, Unauthenticated, Unavailable, from_rpc
from attractor._memory_settings import decode_settings
from attractor._session.channel import Channel, Channels
from attractor._settings import Settings
from attractor._token import Metadata, TokenSource
from attractor._tracing import CallSpan, CallTracer
from attractor._types import AudioFormat, FieldInfo, MemoryInfo, ModelInfo, find_kind
from attractor_proto.traces import TRACE_KEY, format_trace
from attractor_proto.v1 import memories_pb2 as pb

YEAR_S = 365 * 86_400.0
"""Longer deadlines are none to gRPC, which counts nanoseconds in 64 bits"""
_RequestT = TypeVar("_RequestT", contravariant=True)
_ResponseT = TypeVar("_ResponseT", covariant=True)
_Q = TypeVar("_Q")
_A = TypeVar("_A")


class _Method(Protocol[_RequestT, _ResponseT]):
    def __call__(
        self, request: _RequestT, /, *, timeout: float | None = None, metadata: Metadata = ...
    ) -> Awaitable[_ResponseT]: ...


_MethodGetter: TypeAlias = Callable[[Channel], _Method[_Q, _A]]


class UnaryCalls:
    """Calls about memories and models, repeated after UNAVAILABLE until the deadline (on the event loop's clock)."""

    def __init__(  # noqa: PLR0913 - each a part of the client
        self,
        channel: Channel,
        others: Channels,
        get_shards: Callable[[], Sequence[str]],
        settings: Settings,
        tokens: TokenSource,
        tracer: CallTracer,
    ) -> None:
        """Send calls to `channel`; after a failure to another of the shards, each of which answers any client."""
        self._first = self.channel = channel
        self._others = others
        self._get_shards = get_shards
        self._settings = settings
        self._tokens = tokens
        self._tracer = tracer
        self._closed = anyio.Event()
        self._numbers = count(1)

    def close(self) -> None:
        """Refuse every later call."""
        self._closed.set()

    async def create(self, request: pb.CreateRequest, deadline_s: float) -> MemoryInfo:
        """Create a memory, or return the one that has this name, model and settings."""
        return decode_memory((await self.call(lambda to: to.memories.Create, request, deadline_s)).memory)

    async def get(self, name: str, deadline_s: float) -> MemoryInfo:
        """Return the memory of that name."""
        return decode_memory((await self.call(lambda to: to.memories.Get, pb.GetRequest(name=name), deadline_s)).memory)

    async def delete(self, name: str, deadline_s: float) -> None:
        """Delete a memory. That a repeat finds it gone is no failure."""
        await self.call(
            lambda to: to.memories.Delete,
            pb.DeleteRequest(name=name, call=self.number_call()),
            deadline_s,
            default_in_repeat=pb.DeleteResponse(),
        )

    async def delete_prefix(self, prefix: str, deadline_s: float) -> int:
        """Delete the memories whose names start with a prefix; return how many."""
        request = pb.DeletePrefixRequest(prefix=prefix, call=self.number_call())
        return (await self.call(lambda to: to.memories.DeletePrefix, request, deadline_s)).deleted

    async def list_page(self, prefix: str, token: str, deadline_s: float) -> tuple[Sequence[MemoryInfo], str]:
        """Return some memories in the order of names, and the token of the next page, empty on the last."""
        request = pb.ListRequest(prefix=prefix, page_token=token)
        response = await self.call(lambda to: to.memories.List, request, deadline_s)
        return [decode_memory(memory) for memory in response.memories], response.next_page_token

    async def list_models(self, deadline_s: float) -> list[ModelInfo]:
        """Return all models of the server."""
        response = await self.call(lambda to: to.models.List, pb.ModelsListRequest(), deadline_s)
        return [_decode_model(model) for model in response.models]

    async def get_model(self, name: str, deadline_s: float) -> ModelInfo:
        """Return the model of that name."""
        response = await self.call(lambda to: to.models.Get, pb.ModelsGetRequest(name=name), deadline_s)
        return _decode_model(response.model)

    async def call(
        self,
        get_method: _MethodGetter[_Q, _A],
        request: _Q,
        deadline_s: float,
        *,
        default_in_repeat: _A | None = None,
    ) -> _A:
        """Call a method until it succeeds; return the default where a repeat does not find what was asked for.

        Raises:
            AttractorError: the first failure that is not to be repeated, or TimeoutExceeded.
        """
        with self._tracer.start_unary(request) as span:
            return await self._repeat(get_method, request, deadline_s, default_in_repeat, span)

    async def _repeat(
        self,
        get_method: _MethodGetter[_Q, _A],
        request: _Q,
        deadline_s: float,
        default_in_repeat: _A | None,
        span: CallSpan,
    ) -> _A:
        attempt = 0
        traced: Metadata = ((TRACE_KEY, format_trace(span.packed)),) if span.packed else ()
        refused: Metadata | None = None
        while True:
            metadata = await self._read_token(refused, deadline_s)
            try:
                return await self._attempt(get_method(self.channel), request, deadline_s, (*metadata, *traced))
            except Unauthenticated:
                if refused is not None or not self._tokens.renewable:
                    raise
                refused = metadata
            except NotFound:
                if attempt and default_in_repeat is not None:
                    return default_in_repeat
                raise
            except Unavailable as error:
                why = await self.channel.explain(error, limit_s=deadline_s - anyio.current_time())
                if why is not error:
                    raise why from error
                attempt += 1
                delay_s = self._settings.retry.delay_s(attempt)
                if anyio.current_time() + delay_s >= deadline_s:
                    raise TimeoutExceeded(f"no answer in time; the last failure: {error}") from error
                self._switch_shard()
                with anyio.move_on_after(delay_s):
                    await self._closed.wait()

    def number_call(self) -> pb.Call:
        """Return the number of a new call, by which the server knows its repeats."""
        return pb.Call(client_id=self._settings.client_id, sequence=next(self._numbers))

    def _switch_shard(self) -> None:
        """Ask the next shard from now on."""
        others = [one for one in self._get_shards() if self._settings.may_reach(one)] if self._settings.direct else ()
        addresses = [self._first.address, *(one for one in others if one != self._first.address)]
        now = addresses.index(self.channel.address) if self.channel.address in addresses else -1
        address = addresses[(now + 1) % len(addresses)]
        self.channel = self._first if address == self._first.address else self._others.get(address)

    async def _read_token(self, refused: Metadata | None, deadline_s: float) -> Metadata:
        with anyio.move_on_after(deadline_s - anyio.current_time()):
            return await self._tokens.read(refused)
        raise TimeoutExceeded("no token in time: the function that returns it did not")

    async def _attempt(self, method: _Method[_Q, _A], request: _Q, deadline_s: float, metadata: Metadata) -> _A:
        if self._closed.is_set():
            raise Closed("the client was closed")
        left_s = deadline_s - anyio.current_time()
        try:
            return await method(request, timeout=None if left_s > YEAR_S else left_s, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        except aio.UsageError as error:
            raise Closed("the client was closed") from error
        except asyncio.CancelledError:
            await raise_if_cancelled()  # else it would escape the caller's scope
            raise Closed("the client was closed during the call") from None


def decode_memory(memory: pb.Memory) -> MemoryInfo:
    """Return the description of a memory."""
    return MemoryInfo(
        name=memory.name,
        model=memory.model,
        model_digest=memory.model_digest,
        version=memory.version,
        patterns=memory.patterns,
        pages=memory.pages,
        settings=decode_settings(memory.settings),
        created=memory.created.ToDatetime(UTC),
        expires=memory.expires.ToDatetime(UTC) if memory.HasField("expires") else None,
    )


def _decode_model(model: pb.Model) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        digest=model.digest,
        fields=tuple(_decode_field(field) for field in model.fields),
        capacity=model.capacity,
        page_bytes=model.page_bytes,
        steps=model.steps,
        training_record=MessageToDict(model.training_record),
        erases=model.erases,
        pulls=model.pulls,
        has_metric=model.has_metric,
    )


def _decode_field(field: pb.Field) -> FieldInfo:
    return FieldInfo(
        name=field.name,
        kind=find_kind(field.kind),
        shape=tuple(field.shape),
        alphabet=field.alphabet,
        audio=_decode_audio(field.audio) if field.HasField("audio") else None,
    )


def _decode_audio(audio: pb.AudioFormat) -> AudioFormat:
    return AudioFormat(
        sample_rate_hz=audio.sample_rate_hz,
        window=audio.window,
        hop=audio.hop,
        mels=audio.mels,
        low_hz=audio.low_hz,
        high_hz=audio.high_hz,
    )
