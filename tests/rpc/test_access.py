"""Who may call what: every method of every service, and every way in."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.identities import (
    ROOT,
    Metadata,
    bearer,
    each_method,
    put_identities,
    put_text,
    write_identities,
)
from tests.support.raw import columns, raw_session, tensor
from tests.support.shards import HERE, THERE, serving

from attractor_proto.v1 import (
    memories_pb2,
    memories_pb2_grpc,
    memory_copies_pb2,
    memory_copies_pb2_grpc,
    memory_data_pb2_grpc,
)
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import RunningShard
from attractor_server.rpc.fellows import FELLOW_KEY, ORIGIN_KEY, PRINCIPAL_KEY
from attractor_server.rpc.rules import RULES
from attractor_server.shard.spec import ShardSpec

ONE = np.random.default_rng(1).random((1, 4, 4), dtype=np.float32)

WHO = {
    **ROOT,
    "ada": ["users/ada/*:write", "shared/notes:read", "plain:read"],
    "flat": ["/*:read"],
    "nobody": [],
}

OTHERS = "users/bob/secret"
"""A memory that ada has no grant for"""

DENIED = {
    "/attractor.v1.Memories/Create",
    "/attractor.v1.Memories/Get",
    "/attractor.v1.Memories/Delete",
    "/attractor.v1.MemoryData/Store",
    "/attractor.v1.MemoryData/Query",
    "/attractor.v1.MemoryData/Recognize",
    "/attractor.v1.MemoryData/Erase",
    *(f"/attractor.v1.Items/{name}" for name in ("Get", "List", "Count", "Erase", "Put", "Touch")),
    "/attractor.v1.Search/Search",
    "/attractor.v1.Copies/Fork",
    "/attractor.v1.Copies/TakeSnapshot",
    "/attractor.v1.Copies/ListSnapshots",
    "/attractor.v1.Copies/ForgetSnapshot",
    "/attractor.v1.Copies/Restore",
    "/attractor.v1.Copies/Rebuild",
    "/attractor.v1.Copies/Export",
    "/attractor.v1.Copies/Import",
    "/attractor.v1.Cluster/Scale",
}
"""Methods that refuse a call about another's memory; a session refuses what is opened in it"""

FOR_ANYBODY = {
    "/attractor.v1.Memories/List",
    "/attractor.v1.Memories/DeletePrefix",
    "/attractor.v1.Search/SearchPrefix",
    "/attractor.v1.Models/List",
    "/attractor.v1.Models/Get",
    "/attractor.v1.Cluster/GetTopology",
    "/attractor.v1.MemoryData/Session",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

FOR_EVERYBODY = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"}
"""`List` is of newer versions of gRPC's health service"""


@dataclass
class Guarded:
    """A shard that knows identities."""

    shard: RunningShard
    channel: aio.Channel
    tokens: dict[str, str]
    file: Path

    def who(self, name: str) -> Metadata:
        return bearer(self.tokens[name])


@pytest.fixture
async def guarded(on_disk: ShardSpec, tmp_path: Path) -> AsyncIterator[Guarded]:
    file = tmp_path / "identities.toml"
    tokens = await write_identities(file, WHO)
    async with (
        serving(replace(on_disk, identities=file)) as (shard,),
        aio.insecure_channel(shard.info.address) as channel,
    ):
        yield Guarded(shard, channel, tokens, file)


def ask_about(method: MethodDescriptor, memory: str) -> Message:
    """Return a request that names that memory wherever it names one."""
    request = GetMessageClass(method.input_type)()
    for field in ("name", "memory", "target"):
        if field in method.input_type.fields_by_name:
            setattr(request, field, memory)
    if isinstance(request, memory_copies_pb2.ImportRequest):
        request.piece.head.memory.name = memory
    if isinstance(request, memories_pb2.ModelsGetRequest):
        request.name = "tiny"
    return request


async def outcome(
    channel: aio.Channel, path: str, method: MethodDescriptor, request: Message, metadata: Metadata
) -> tuple[StatusCode, str, bytes]:
    """Call the method once; return how it ends: code, message and details."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    make = getattr(channel, kind)(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    asked = (one for one in [request]) if method.client_streaming else request
    call = make(asked, metadata=metadata, timeout=20)
    try:
        if method.server_streaming:
            await call.read()
            if path.endswith("/Watch"):
                call.cancel()
                return StatusCode.OK, "", b""
            await call.read()
        else:
            await call
    except aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        assert isinstance(details, bytes)
        return error.code(), error.details() or "", details
    return StatusCode.OK, "", b""


def test_each_method_of_each_service_has_a_rule_and_is_tested_here() -> None:
    paths = {path for path, _ in each_method()}
    named = DENIED | FOR_ANYBODY | FOR_EVERYBODY
    assert paths <= named
    assert named == RULES.keys()


async def test_who_proves_nothing_is_refused_everywhere_but_at_health(guarded: Guarded) -> None:
    for path, method in each_method():
        for metadata in ((), bearer("att_unknown"), (("authorization", f"Basic {guarded.tokens['ada']}"),)):
            code, message, details = await outcome(guarded.channel, path, method, ask_about(method, OTHERS), metadata)
            if path in FOR_EVERYBODY:
                assert code is not StatusCode.UNAUTHENTICATED, path
            else:
                assert code is StatusCode.UNAUTHENTICATED, (path, code, message)
                assert raw.reason(status_pb2.Status.FromString(details)) == "UNAUTHENTICATED"
                assert "att_" not in message


async def test_a_refusal_does_not_tell_whether_there_is_such_a_memory(guarded: Guarded) -> None:
    async def ask_all() -> dict[str, tuple[StatusCode, str, bytes]]:
        return {
            path: await outcome(guarded.channel, path, method, ask_about(method, OTHERS), guarded.who("ada"))
            for path, method in each_method()
        }

    missing = await ask_all()
    create = memories_pb2.CreateRequest(name=OTHERS, model="tiny")
    await memories_pb2_grpc.MemoriesStub(guarded.channel).Create(create, metadata=guarded.who("root"))
    there = await ask_all()
    assert there == missing
    for path, (code, message, details) in there.items():
        if path in DENIED:
            assert code is StatusCode.PERMISSION_DENIED, (path, code, message)
            assert raw.reason(status_pb2.Status.FromString(details)) == "NOT_ALLOWED"
        elif path in FOR_ANYBODY:
            assert code not in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED), (path, code, message)
    listed = await memories_pb2_grpc.MemoriesStub(guarded.channel).List(
        memories_pb2.ListRequest(), metadata=guarded.who("ada")
    )
    assert not listed.memories


async def test_a_session_opens_what_its_identity_may_read_and_writes_what_it_may_write(guarded: Guarded) -> None:
    memories = memories_pb2_grpc.MemoriesStub(guarded.channel)
    for name in ("users/ada/a", "shared/notes", OTHERS):
        create = memories_pb2.CreateRequest(name=name, model="tiny")
        await memories.Create(create, metadata=guarded.who("root"))
    async with raw_session(guarded.channel, metadata=guarded.who("ada")) as session:
        refused = []
        for number, name in enumerate((OTHERS, "users/bob/nothing", "users/ada", "users/adam/a")):
            (status,) = raw.failures(await session.open(name, 10 + number)).values()
            refused.append(status.message.replace(name, "NAME"))
            assert (status.code, raw.reason(status)) == (StatusCode.PERMISSION_DENIED.value[0], "NOT_ALLOWED")
        assert len(set(refused)) == 1
        assert (await session.open("users/ada/a", 1)).HasField("opened")
        assert (await session.open("shared/notes", 2)).HasField("opened")
        store = pb.StoreFrame(columns=columns([1, 2], [1, 2], tensor(np.repeat(ONE, 2, 0))), sequences=[1, 1])
        await session.send(pb.SessionRequest(store=store))
        frames = {(frame := await session.receive()).WhichOneof("frame"): frame for _ in range(2)}
        assert list(frames["stored"].stored.request_ids) == [1]
        assert raw.reason(raw.failures(frames["failures"])[2]) == "NOT_ALLOWED"
        query = pb.QueryFrame(columns=columns([3], [2], tensor(ONE)))
        assert (await session.ask(pb.SessionRequest(query=query))).HasField("recalled")
    get = memories_pb2.GetRequest(name="shared/notes")
    assert (await memories.Get(get, metadata=guarded.who("ada"))).memory.patterns == 0


async def test_a_list_has_what_may_be_read_alone_page_by_page(guarded: Guarded) -> None:
    memories = memories_pb2_grpc.MemoriesStub(guarded.channel)
    names = [
        "plain", "aaa", "zzz", "shared/notes", "shared/notes2", "users/ada", "users/adam/x",
        *(f"users/ada/{n}" for n in range(5)), *(f"users/bob/{n}" for n in range(20)),
    ]  # fmt: skip
    for name in names:
        create = memories_pb2.CreateRequest(name=name, model="tiny")
        await memories.Create(create, metadata=guarded.who("root"))

    async def list_all(who: str, prefix: str = "", size: int = 2) -> list[str]:
        found, token = [], ""
        while True:
            request = memories_pb2.ListRequest(prefix=prefix, page_size=size, page_token=token)
            page = await memories.List(request, metadata=guarded.who(who))
            assert len(page.memories) <= size
            found += [memory.name for memory in page.memories]
            if not (token := page.next_page_token):
                return found

    mine = sorted([*(f"users/ada/{n}" for n in range(5)), "shared/notes", "plain"])
    assert await list_all("root") == sorted(names)
    assert await list_all("ada") == await list_all("ada", size=100) == mine
    assert await list_all("ada", prefix="users/") == mine[2:]
    assert await list_all("ada", prefix="users/ada/3") == ["users/ada/3"]
    assert await list_all("ada", prefix="users/bob") == []
    assert await list_all("flat") == ["aaa", "plain", "zzz"]
    assert await list_all("nobody") == []
    delete = memories_pb2.DeletePrefixRequest(prefix="users/")
    assert (await memories.DeletePrefix(delete, metadata=guarded.who("ada"))).deleted == 5
    assert await list_all("root") == sorted(name for name in names if not name.startswith("users/ada/"))


async def test_a_fork_needs_both_names_and_scaling_everything(guarded: Guarded) -> None:
    memories, copies = (
        memories_pb2_grpc.MemoriesStub(guarded.channel),
        memory_copies_pb2_grpc.CopiesStub(guarded.channel),
    )
    for name in ("shared/notes", OTHERS):
        create = memories_pb2.CreateRequest(name=name, model="tiny")
        await memories.Create(create, metadata=guarded.who("root"))
    for source, target in ((OTHERS, "users/ada/copy"), ("shared/notes", "users/bob/copy")):
        with pytest.raises(aio.AioRpcError) as caught:
            await copies.Fork(memory_copies_pb2.ForkRequest(name=source, target=target), metadata=guarded.who("ada"))
        assert caught.value.code() is StatusCode.PERMISSION_DENIED
    fork = memory_copies_pb2.ForkRequest(name="shared/notes", target="users/ada/copy")
    assert (await copies.Fork(fork, metadata=guarded.who("ada"))).memory.name == "users/ada/copy"
    exported = [
        one
        async for one in copies.Export(
            memory_copies_pb2.ExportRequest(name="shared/notes"), metadata=guarded.who("ada")
        )
    ]

    def pieces(name: str) -> Iterator[memory_copies_pb2.ImportRequest]:
        for number, response in enumerate(exported):
            yield memory_copies_pb2.ImportRequest(name="" if number else name, piece=response.piece)

    assert (await copies.Import(pieces("users/ada/new"), metadata=guarded.who("ada"))).memory.name == "users/ada/new"
    for name in ("", "users/bob/new"):
        with pytest.raises(aio.AioRpcError) as caught:
            await copies.Import(pieces(name), metadata=guarded.who("ada"))
        assert caught.value.code() is StatusCode.PERMISSION_DENIED


async def test_a_method_without_a_rule_is_served_to_nobody(guarded: Guarded) -> None:
    async def serve(request: bytes, context: object) -> bytes:
        return b"served"

    handler = grpc.method_handlers_generic_handler(
        "dummy.Service", {"Call": grpc.unary_unary_rpc_method_handler(serve)}
    )
    guarded.shard._listening._server.add_generic_rpc_handlers((handler,))
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = guarded.channel.unary_unary("/dummy.Service/Call")
    for metadata in ((), guarded.who("ada"), guarded.who("root")):
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"", metadata=metadata)
        assert caught.value.code() is StatusCode.PERMISSION_DENIED


async def test_a_client_that_says_that_it_is_a_shard_is_not_believed(guarded: Guarded) -> None:
    principal = (PRINCIPAL_KEY, b'["token","root",["*:admin"],null]')
    for said in (
        (principal,),
        (principal, (FELLOW_KEY, "1" * 16)),
        ((FELLOW_KEY, "1"), (ORIGIN_KEY, "ipv4:1.2.3.4 1")),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await memories_pb2_grpc.MemoriesStub(guarded.channel).List(memories_pb2.ListRequest(), metadata=said)
        assert caught.value.code() is StatusCode.UNAUTHENTICATED
        with pytest.raises(aio.AioRpcError) as caught:
            request = memories_pb2.GetRequest(name=OTHERS)
            metadata = (*said, *guarded.who("ada"))
            await memories_pb2_grpc.MemoriesStub(guarded.channel).Get(request, metadata=metadata)
        assert caught.value.code() is StatusCode.PERMISSION_DENIED


async def test_a_session_ends_when_its_identity_does_and_others_go_on(guarded: Guarded) -> None:
    async with (
        raw_session(guarded.channel, metadata=guarded.who("ada")) as session,
        raw_session(guarded.channel, metadata=guarded.who("root")) as other,
    ):
        await put_identities(guarded.file, {name: WHO[name] for name in WHO if name != "ada"}, guarded.tokens)
        error = await session.ended()
        assert (error.code(), raw.reason(raw.status_of(error))) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        with pytest.raises(aio.AioRpcError) as caught:
            await memories_pb2_grpc.MemoriesStub(guarded.channel).List(
                memories_pb2.ListRequest(), metadata=guarded.who("ada")
            )
        assert caught.value.code() is StatusCode.UNAUTHENTICATED
        await memories_pb2_grpc.MemoriesStub(guarded.channel).Create(
            memories_pb2.CreateRequest(name="a", model="tiny"), metadata=guarded.who("root")
        )
        assert (await other.open("a", 1)).HasField("opened")
        await put_text(guarded.file, "[[token]]\nname = 1")  # a fault: what was right goes on
        await anyio.sleep(1.5)
        query = pb.QueryFrame(columns=columns([1], [1], tensor(ONE)))
        assert (await other.ask(pb.SessionRequest(query=query))).HasField("recalled")
        await put_identities(guarded.file, {**WHO, "root": ["*:read"]}, guarded.tokens)
        assert (await other.ended()).code() is StatusCode.UNAVAILABLE


async def test_forwarded_calls_carry_who_calls(spec: ShardSpec, tmp_path: Path) -> None:
    file = tmp_path / "identities.toml"
    tokens = await write_identities(file, {**ROOT, "ada": [f"{HERE}:write", f"{THERE}:read"]})
    async with (
        serving(replace(spec, identities=file), 2) as (one, _),
        aio.insecure_channel(one.info.address) as channel,
    ):
        memories, data = memories_pb2_grpc.MemoriesStub(channel), memory_data_pb2_grpc.MemoryDataStub(channel)
        root, ada = bearer(tokens["root"]), bearer(tokens["ada"])
        for name in (HERE, THERE, "m100/other"):
            await memories.Create(memories_pb2.CreateRequest(name=name, model="tiny"), metadata=root)
        assert (await memories.Get(memories_pb2.GetRequest(name=THERE), metadata=ada)).memory.name == THERE
        listed = await memories.List(memories_pb2.ListRequest(), metadata=ada)
        assert {memory.name for memory in listed.memories} == {HERE, THERE}
        with pytest.raises(aio.AioRpcError) as caught:
            await data.Store(pb.StoreRequest(memory=THERE, tensors=[tensor(ONE)]), metadata=ada)
        assert caught.value.code() is StatusCode.PERMISSION_DENIED
        async with raw_session(channel, metadata=ada) as session:
            opened = await session.open(THERE, 1)
            assert opened.opened.route
            store = pb.StoreFrame(columns=columns([1], [1], tensor(ONE)), sequences=[1])
            (status,) = raw.failures(await session.ask(pb.SessionRequest(store=store))).values()
            assert raw.reason(status) == "NOT_ALLOWED"
            query = pb.QueryFrame(columns=columns([2], [1], tensor(ONE)))
            assert (await session.ask(pb.SessionRequest(query=query))).HasField("recalled")
