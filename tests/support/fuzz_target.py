"""Two shards in processes of their own, that fuzzed requests are sent to, and the memory of somebody else on them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import grpc
import numpy as np
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.support.fuzz_messages import MEMORIES, MODELS, SHAPE, TAGS
from tests.support.shard_process import ShardProcess

import attractor
from attractor_proto.v1 import memories_pb2, memory_copies_pb2, memory_data_pb2, memory_items_pb2
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology
from attractor_server.storage.backends.sqlite_backend import uri_of

ANSWER_S = 20.0
LOADED_S = 120.0
"""Time for a request that took longer than that, once more: the machine may have been busy, but nothing hangs"""
CLOSE = 1e-4
FILES = (memories_pb2, memory_copies_pb2, memory_data_pb2, memory_items_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Of all services, by their names"""
NEVER = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
}
"""What no request is answered with, whatever is in it"""
_HANDLES = (1, 2)
_EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED
"""What a request in a session is rightly answered with whose `deadline_ms` has passed; that of the call never may"""


@dataclass(frozen=True)
class Sent:
    """What is sent to a method: one message, or those of a stream; bytes stand for themselves."""

    method: str
    messages: Sequence[Message | bytes]

    def __str__(self) -> str:
        return f"{self.method}: " + " | ".join(
            repr(one) if isinstance(one, bytes) else str(one) for one in self.messages
        )


class Target:
    """Takes what is sent, and sees whether somebody else's memory is as it was."""

    def __init__(self, shards: Sequence[ShardProcess], channel: grpc.Channel, client: attractor.Client) -> None:
        self._shards, self._channel, self._client = shards, channel, client
        self._memories = [client.create_memory(f"victim/{at}", model=MODELS[at % 2]) for at in range(4)]
        self._patterns = np.random.default_rng(7).random((2, *SHAPE), dtype=np.float32)
        self._before = []
        for memory in self._memories:
            memory.store(self._patterns)
            self._before.append(memory.query(self._patterns).pattern)
        for name in MEMORIES[:3]:
            made = client.create_memory(name, model=MODELS[0])
            made.store(self._patterns)
            made.snapshot(TAGS[0])

    @classmethod
    def started(cls, stack: ExitStack, folder: Path, models: Path) -> Self:
        """Start both shards, over one store in the folder."""
        spec = ShardSpec(models=models, bank_bytes=1 << 14, warm_up=False, store_uri=uri_of(folder / "data"))
        shards = [stack.enter_context(ShardProcess(replace(spec, number=at), alone=False)) for at in (0, 1)]
        topology = Topology(1, tuple(shard.info for shard in shards))
        for shard in shards:
            shard.tell(topology)
            shard.held()
        channel = stack.enter_context(grpc.insecure_channel(shards[0].address))
        client = stack.enter_context(attractor.Client(shards[0].address, timeout_s=ANSWER_S))
        return cls(shards, channel, client)

    def send(self, sent: Sent) -> None:
        """Send it, and look at each answer.

        Raises:
            AssertionError: one of them is a fault of the server, or there is none.
        """
        method, framed = METHODS[sent.method], self._framed(sent)
        answers = list(self._answers(method, framed, ANSWER_S))
        if any(code is _EXPIRED for code, _ in answers):
            answers = list(self._answers(method, framed, LOADED_S))
        for code, details in answers:
            assert code not in NEVER, f"{code}: {details}\nto {sent}"

    def check(self) -> None:
        """Look at the memories of somebody else.

        Raises:
            AssertionError: one of them answers otherwise than before.
        """
        for memory, before in zip(self._memories, self._before, strict=True):
            assert memory.info().patterns == len(self._patterns)
            np.testing.assert_allclose(memory.query(self._patterns).pattern, before, atol=CLOSE)

    @staticmethod
    def _framed(sent: Sent) -> Sequence[Message | bytes]:
        """With the greeting before the frames of a session, and handles that they can be for."""
        if sent.method != "MemoryData.Session":
            return sent.messages
        hello = memory_data_pb2.Hello(protocol_version=1, client_id="fuzz")
        opened = [
            memory_data_pb2.Open(request_id=100 + handle, handle=handle, memory=MEMORIES[handle]) for handle in _HANDLES
        ]
        return [
            memory_data_pb2.SessionRequest(hello=hello),
            *[memory_data_pb2.SessionRequest(open=one) for one in opened],
            *sent.messages,
        ]

    def _answers(
        self, method: MethodDescriptor, messages: Sequence[Message | bytes], answer_s: float
    ) -> Iterator[tuple[grpc.StatusCode, str | None]]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(method.output_type.full_name))
        call = self._channel.stream_stream(path, _bytes, answer.FromString)(iter(messages), timeout=answer_s)
        try:
            for one in call:
                if isinstance(one, memory_data_pb2.SessionResponse):
                    failed = ((_CODES[it.status.code], it.status.message) for it in one.failures.failures)
                    yield from (it for it in failed if it[0] is not _EXPIRED)
            yield call.code(), call.details()
        except grpc.RpcError:
            yield call.code(), call.details()


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _bytes(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
