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
from attractor._errors import Closed, NotFound, TimeoutExceeded, Unavailable, from_rpc
from attractor._memory_settings import told
from attractor._session.channel import Channel, Channels
from attractor._settings import Settings
from attractor._types import AudioFormat, FieldInfo, FieldKind, MemoryInfo, ModelInfo
from attractor_proto.v1 import memories_pb2 as pb

YEAR_S = 365 * 86_400.0
"""Longer deadlines are none to gRPC, which counts nanoseconds in 64 bits"""
_Asked = TypeVar("_Asked", contravariant=True)
_Answered = TypeVar("_Answered", covariant=True)
_Q = TypeVar("_Q")
_A = TypeVar("_A")


class _Method(Protocol[_Asked, _Answered]):
    def __call__(self, request: _Asked, /, *, timeout: float | None = None) -> Awaitable[_Answered]: ...


_Way: TypeAlias = Callable[[Channel], _Method[_Q, _A]]

_KINDS: dict[int, FieldKind] = {
    pb.FIELD_KIND_VECTOR: "vector",
    pb.FIELD_KIND_IMAGE: "image",
    pb.FIELD_KIND_TEXT: "text",
    pb.FIELD_KIND_AUDIO: "audio",
}


class Control:
    """Calls about memories and models, repeated after UNAVAILABLE until the deadline (on the event loop's clock)."""

    def __init__(
        self, channel: Channel, others: Channels, shards: Callable[[], Sequence[str]], settings: Settings
    ) -> None:
        """Calls go to `channel`; after a failure to another of the `shards`, each of which answers any client."""
        self._first = self.channel = channel
        self._others = others
        self._shards = shards
        self._settings = settings
        self._closed = anyio.Event()
        self._numbers = count(1)

    def close(self) -> None:
        """Every call from now on is refused."""
        self._closed.set()

    async def create(self, request: pb.CreateRequest, deadline_s: float) -> MemoryInfo:
        """The memory of that name, model and settings, made now if there is none."""
        return memory_info((await self.call(lambda to: to.memories.Create, request, deadline_s)).memory)

    async def get(self, name: str, deadline_s: float) -> MemoryInfo:
        """The memory of that name."""
        return memory_info((await self.call(lambda to: to.memories.Get, pb.GetRequest(name=name), deadline_s)).memory)

    async def delete(self, name: str, deadline_s: float) -> None:
        """Forgets a memory. That a repeat finds it gone is no failure."""
        await self.call(
            lambda to: to.memories.Delete,
            pb.DeleteRequest(name=name, call=self.numbered()),
            deadline_s,
            fine_in_repeat=pb.DeleteResponse(),
        )

    async def page(self, prefix: str, token: str, deadline_s: float) -> tuple[Sequence[MemoryInfo], str]:
        """Some memories in the order of names, and the token of the next page, empty on the last."""
        request = pb.ListRequest(prefix=prefix, page_token=token)
        answer = await self.call(lambda to: to.memories.List, request, deadline_s)
        return [memory_info(memory) for memory in answer.memories], answer.next_page_token

    async def models(self, deadline_s: float) -> list[ModelInfo]:
        """All models of the server."""
        answer = await self.call(lambda to: to.models.List, pb.ModelsListRequest(), deadline_s)
        return [_model(model) for model in answer.models]

    async def model(self, name: str, deadline_s: float) -> ModelInfo:
        """The model of that name."""
        return _model((await self.call(lambda to: to.models.Get, pb.ModelsGetRequest(name=name), deadline_s)).model)

    async def call(self, way: _Way[_Q, _A], request: _Q, deadline_s: float, *, fine_in_repeat: _A | None = None) -> _A:
        """The answer, by that way from a channel; `fine_in_repeat` where what was asked for is not found by a repeat.

        Raises:
            AttractorError: the first failure that is not to be repeated, or TimeoutExceeded.
        """
        attempt = 0
        while True:
            try:
                return await self._attempt(way(self.channel), request, deadline_s)
            except NotFound:
                if attempt and fine_in_repeat is not None:
                    return fine_in_repeat
                raise
            except Unavailable as error:
                attempt += 1
                delay_s = self._settings.retry.delay_s(attempt)
                if anyio.current_time() + delay_s >= deadline_s:
                    raise TimeoutExceeded(f"no answer in time; the last failure: {error}") from error
                self._turn()
                with anyio.move_on_after(delay_s):
                    await self._closed.wait()

    def numbered(self) -> pb.Call:
        """The number of a new call, by which its repeats are known."""
        return pb.Call(client_id=self._settings.client_id, sequence=next(self._numbers))

    def _turn(self) -> None:
        """The next shard is asked from now on."""
        others = self._shards() if self._settings.direct else ()
        addresses = [self._first.address, *(one for one in others if one != self._first.address)]
        now = addresses.index(self.channel.address) if self.channel.address in addresses else -1
        address = addresses[(now + 1) % len(addresses)]
        self.channel = self._first if address == self._first.address else self._others.to(address)

    @staticmethod
    def left_s(deadline_s: float) -> float | None:
        """Seconds until then, as gRPC takes them."""
        left_s = deadline_s - anyio.current_time()
        return None if left_s > YEAR_S else left_s

    async def _attempt(self, method: _Method[_Q, _A], request: _Q, deadline_s: float) -> _A:
        if self._closed.is_set():
            raise Closed("the client was closed")
        try:
            return await method(request, timeout=self.left_s(deadline_s))
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        except aio.UsageError as error:
            raise Closed("the client was closed") from error
        except asyncio.CancelledError:
            await raise_if_cancelled()  # else it would escape the caller's scope
            raise Closed("the client was closed during the call") from None


def memory_info(memory: pb.Memory) -> MemoryInfo:
    """What users are told of a memory."""
    return MemoryInfo(
        name=memory.name,
        model=memory.model,
        model_digest=memory.model_digest,
        version=memory.version,
        patterns=memory.patterns,
        pages=memory.pages,
        settings=told(memory.settings),
        created=memory.created.ToDatetime(UTC),
        expires=memory.expires.ToDatetime(UTC) if memory.HasField("expires") else None,
    )


def _model(model: pb.Model) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        digest=model.digest,
        fields=tuple(_field(field) for field in model.fields),
        capacity=model.capacity,
        page_bytes=model.page_bytes,
        steps=model.steps,
        training_record=MessageToDict(model.training_record),
        erases=model.erases,
        pulls=model.pulls,
    )


def _field(field: pb.Field) -> FieldInfo:
    kind = _KINDS.get(field.kind, "vector")
    audio = _audio(field.audio) if field.HasField("audio") else None
    return FieldInfo(name=field.name, kind=kind, shape=tuple(field.shape), alphabet=field.alphabet, audio=audio)


def _audio(audio: pb.AudioFormat) -> AudioFormat:
    return AudioFormat(
        sample_rate_hz=audio.sample_rate_hz,
        window=audio.window,
        hop=audio.hop,
        mels=audio.mels,
        low_hz=audio.low_hz,
        high_hz=audio.high_hz,
    )
