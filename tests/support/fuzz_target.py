"""Two shards in processes of their own, that fuzzed requests are sent to, and the memories of somebody else on them.

They know who calls: whoever sends requests may write to memories of its own, and claims to be others as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import grpc
import jwt
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.support.fuzz_messages import MEMORIES, MODELS, SHAPE, TAGS, VICTIMS
from tests.support.identities import bearer
from tests.support.shard_process import ShardProcess

import attractor
from attractor_proto.names import FORWARDED_KEY
from attractor_proto.v1 import (
    memories_pb2,
    memory_copies_pb2,
    memory_copies_pb2_grpc,
    memory_data_pb2,
    memory_items_pb2,
)
from attractor_server.identity.grants import parse_grants
from attractor_server.identity.identity_file import format_token
from attractor_server.identity.principal import Principal, pack_principal
from attractor_server.identity.tokens import draw_token, hash_token
from attractor_server.rpc.fellows import FELLOW_KEY, ORIGIN_KEY, PRINCIPAL_KEY
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


ISSUER = "https://login.example.org"
FORGER = ec.generate_private_key(ec.SECP256R1())
"""Key that the issuer does not have"""
_JWT = f"""
[[jwt]]
issuer = "{ISSUER}"
audience = "attractor"
keys = "{{keys}}"
grants = ["users/{{{{sub}}}}/*:write"]
claim = "attractor"
"""
GRANTS = {"fuzz": ["fuzz/*:write"], "victim": ["victim/*:write"], "root": ["*:admin"]}
CALLERS = ("fuzz", "nobody", "forged", "forged JWT", "JWT without a signature", "no JWT", "fellow", "passed on", "long")
"""Whom a request is said to come from; the first one is who it is"""


@dataclass(frozen=True)
class Sent:
    """What is sent to a method: one message, or those of a stream; bytes stand for themselves."""

    method: str
    messages: Sequence[Message | bytes]
    caller: str = CALLERS[0]

    def __str__(self) -> str:
        return f"{self.method}, by {self.caller}: " + " | ".join(
            repr(one) if isinstance(one, bytes) else str(one) for one in self.messages
        )


def prove(token: str) -> Mapping[str, tuple[tuple[str, str | bytes], ...]]:
    """The metadata of each caller; `token` is that of who may call."""
    root = Principal("token", "root", parse_grants(GRANTS["root"], where="grants"))
    fellow = ((FELLOW_KEY, "a guess"), (PRINCIPAL_KEY, pack_principal(root)), (ORIGIN_KEY, "ipv4:127.0.0.1 1"))
    claims = {"iss": ISSUER, "aud": "attractor", "sub": "../victim", "exp": 1 << 33, "attractor": GRANTS["root"]}
    return {
        "fuzz": bearer(token),
        "nobody": (),
        "forged": bearer(f"{token[:-1]}{'a' if token[-1] != 'a' else 'b'}"),
        "forged JWT": bearer(jwt.encode(claims, FORGER, algorithm="ES256", headers={"kid": "one"})),
        "JWT without a signature": bearer(jwt.encode(claims, "", algorithm="none", headers={"kid": "one"})),
        "no JWT": bearer("e30.e30.e30"),
        "fellow": ((FORWARDED_KEY, "1"), *fellow),
        "passed on": (*bearer(token), (FORWARDED_KEY, "1"), *fellow),
        "long": bearer("x" * 7000),
    }


class Target:
    """Takes what is sent, and sees whether somebody else's memory is as it was."""

    def __init__(self, channel: grpc.Channel, client: attractor.Client, tokens: Mapping[str, str]) -> None:
        """`client` is somebody else's."""
        self._channel, self._client = channel, client
        self._callers, self._proof = prove(tokens["fuzz"]), bearer(tokens["victim"])
        self._memories = [client.create_memory(name, model=MODELS[at % 2]) for at, name in enumerate(VICTIMS)]
        self._patterns = np.random.default_rng(7).random((2, *SHAPE), dtype=np.float32)
        self._before = []
        for memory in self._memories:
            memory.store(self._patterns)
            self._before.append(memory.query(self._patterns).pattern)
        self._exported = self._export()
        assert self._exported

    def make_memories(self, client: attractor.Client) -> None:
        """Make those that requests are about."""
        for name in MEMORIES[:3]:
            made = client.create_memory(name, model=MODELS[0])
            made.store(self._patterns)
            made.snapshot(TAGS[0])

    @classmethod
    def started(cls, stack: ExitStack, folder: Path, models: Path) -> Self:
        """Start both shards, over one store in the folder."""
        identities, keys = folder / "identities.toml", folder / "keys.json"
        keys.write_text('{"keys": []}')
        tokens = {name: draw_token() for name in GRANTS}
        entries = [
            format_token(name, hash_token(tokens[name]), parse_grants(texts, where="grants"), None)
            for name, texts in GRANTS.items()
        ]
        identities.touch(0o600)
        identities.write_text("\n".join([*entries, _JWT.format(keys=keys)]))
        spec = ShardSpec(models=models, bank_bytes=1 << 14, warm_up=False, store_uri=uri_of(folder / "data"))
        spec = replace(spec, identities=identities)
        shards = [stack.enter_context(ShardProcess(replace(spec, number=at), alone=False)) for at in (0, 1)]
        topology = Topology(1, tuple(shard.info for shard in shards))
        for shard in shards:
            shard.tell(topology)
            shard.held()
        channel = stack.enter_context(grpc.insecure_channel(shards[0].address))
        clients = {
            name: stack.enter_context(attractor.Client(shards[0].address, timeout_s=ANSWER_S, token=tokens[name]))
            for name in ("victim", "fuzz")
        }
        target = cls(channel, clients["victim"], tokens)
        target.make_memories(clients["fuzz"])
        return target

    def send(self, sent: Sent) -> None:
        """Send it, and look at each answer.

        Raises:
            AssertionError: one of them is a fault of the server, or there is none.
        """
        method, framed, said = METHODS[sent.method], self._framed(sent), self._callers[sent.caller]
        answers = list(self._answers(method, framed, said, ANSWER_S))
        if any(code is _EXPIRED for code, _ in answers):
            answers = list(self._answers(method, framed, said, LOADED_S))
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

    def check_bits(self) -> None:
        """Compare somebody else's memories with what they were, bit for bit.

        Raises:
            AssertionError: one of them is another, or there is one more.
        """
        assert self._export() == self._exported
        assert [memory.name for memory in self._client.memories()] == list(VICTIMS)

    def _export(self) -> Sequence[bytes]:
        """Everything that is in them, but for the times in the heads of their files."""
        copies = memory_copies_pb2_grpc.CopiesStub(self._channel)
        asked = [memory_copies_pb2.ExportRequest(name=memory.name) for memory in self._memories]
        answers = [copies.Export(one, metadata=self._proof, timeout=ANSWER_S) for one in asked]
        pieces = [one.piece for answer in answers for one in answer]
        return [
            one.SerializeToString(deterministic=True)
            for one in pieces
            if one.WhichOneof("part") not in ("head", "tail")
        ]

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
        self,
        method: MethodDescriptor,
        messages: Sequence[Message | bytes],
        said: tuple[tuple[str, str | bytes], ...],
        answer_s: float,
    ) -> Iterator[tuple[grpc.StatusCode, str | None]]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(method.output_type.full_name))
        ask = self._channel.stream_stream(path, _bytes, answer.FromString)
        call = ask(iter(messages), timeout=answer_s, metadata=said)
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
