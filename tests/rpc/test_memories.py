"""Memories by name, models, health and reflection."""

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor

import attractor
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.app import run_shard
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology

ONE = np.random.default_rng(3).random((1, 4, 4), dtype=np.float32)


async def health(channel: aio.Channel, service: str = "") -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request)  # type: ignore[attr-defined]
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_create_is_idempotent_by_name_and_model(channel: aio.Channel) -> None:
    stub = memories_pb2_grpc.MemoriesStub(channel)
    made = await stub.Create(memories_pb2.CreateRequest(name="a", model="tiny"))
    await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))
    again = await stub.Create(memories_pb2.CreateRequest(name="a", model="tiny"))
    assert (again.memory.version, again.memory.patterns) == (1, 1)
    assert again.memory.created == made.memory.created
    assert again.memory.model_digest.startswith("sha256:")
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Create(memories_pb2.CreateRequest(name="a", model="pair"))
    assert caught.value.code() is StatusCode.ALREADY_EXISTS
    assert raw.reason(raw.status_of(caught.value)) == "MEMORY_OF_OTHER_MODEL"


async def test_a_deleted_memory_is_gone_for_bound_handles_too_and_made_anew_it_is_empty(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    stub = memories_pb2_grpc.MemoriesStub(channel)
    query = pb.SessionRequest(query=pb.QueryFrame(columns=columns([1], [1], tensor(ONE))))
    async with raw_session(channel) as session:
        await session.open("a", 1)
        fresh = (await session.ask(query)).recalled.scores.energy_before[0]
        stored = pb.StoreFrame(columns=columns([2], [1], tensor(ONE)), sequences=[1])
        await session.ask(pb.SessionRequest(store=stored))
        assert (await session.ask(query)).recalled.scores.energy_before[0] < fresh
        await stub.Delete(memories_pb2.DeleteRequest(name="a"))
        (status,) = raw.failures(await session.ask(query)).values()
        assert raw.reason(status) == "MEMORY_NOT_FOUND"
        await raw.create(channel, "a")
        assert (await session.open("a", 2)).opened.last_sequence == 0
        query.query.columns.handles[0] = 2
        assert (await session.ask(query)).recalled.scores.energy_before[0] == fresh


async def test_the_last_page_of_a_list_says_that_it_is_the_last(channel: aio.Channel) -> None:
    for name in "abcd":
        await raw.create(channel, name)
    stub = memories_pb2_grpc.MemoriesStub(channel)
    for size, token in ((3, "c"), (4, ""), (5, "")):
        page = await stub.List(memories_pb2.ListRequest(page_size=size))
        assert [memory.name for memory in page.memories] == list("abcd"[:size])
        assert page.next_page_token == token


async def test_models_tell_all_that_a_client_needs(channel: aio.Channel) -> None:
    stub = memories_pb2_grpc.ModelsStub(channel)
    listed = (await stub.List(memories_pb2.ModelsListRequest())).models
    assert {"pair", "tiny"} <= {model.name for model in listed}
    pair = (await stub.Get(memories_pb2.ModelsGetRequest(name="pair"))).model
    assert [(field.name, list(field.shape)) for field in pair.fields] == [("key", [8]), ("value", [6])]
    assert {field.kind for field in pair.fields} == {memories_pb2.FIELD_KIND_VECTOR}
    assert (pair.capacity, pair.steps, pair.page_bytes) == (8, 4, 4 * (12 * 12 + 12))
    assert MessageToDict(pair.training_record) == {"made": "for tests"}


async def test_an_audio_field_says_how_its_frames_come_from_sound(client: attractor.AsyncClient) -> None:
    (sound,) = (await client.model("sound")).fields
    assert (sound.kind, sound.shape) == ("audio", (4, 6))
    assert sound.audio == attractor.AudioFormat(
        sample_rate_hz=8000, window=256, hop=128, mels=6, low_hz=62.5, high_hz=3800.0
    )
    (image,) = (await client.model("tiny")).fields
    assert image.audio is None


async def test_values_go_in_every_dtype_that_the_contract_has(channel: aio.Channel) -> None:
    await raw.create(channel, "a")
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    bytes_of = np.arange(0, 256, 16, dtype=np.uint8).reshape(1, 4, 4)
    floats = bytes_of.astype(np.float32) / 255
    upper = (floats.view(np.uint32) >> 16).astype("<u2")
    bfloat16 = pb.Tensor(dtype=pb.DTYPE_BFLOAT16, shape=floats.shape, data=upper.tobytes())
    expected = (await stub.Recognize(pb.RecognizeRequest(memory="a", tensors=[tensor(floats)]))).energy[0]
    for sent, tolerance in ((tensor(bytes_of), 1e-6), (tensor(floats.astype(np.float16)), 1e-2), (bfloat16, 0.1)):
        answer = await stub.Recognize(pb.RecognizeRequest(memory="a", tensors=[sent]))
        assert answer.energy[0] == pytest.approx(expected, abs=tolerance)


async def test_a_session_and_a_unary_call_answer_alike(channel: aio.Channel, random: np.random.Generator) -> None:
    await raw.create(channel, "a")
    known = random.random((3, 4, 4)) < 0.5
    cues = tensor(random.random((3, 4, 4), dtype=np.float32), known=known)
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    await stub.Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))
    unary = await stub.Query(pb.QueryRequest(memory="a", tensors=[cues], steps=3))
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.QueryFrame(columns=columns([1], [1], cues, rows=3), steps=3)
        framed = (await session.ask(pb.SessionRequest(query=frame))).recalled
    assert framed.tensors == unary.tensors
    assert framed.scores == unary.scores
    assert framed.scores.steps == [3, 3, 3]
    assert (raw.values_of(unary.tensors[0])[known] == raw.values_of(cues)[known]).all()


async def test_health_follows_the_shards_life(spec: ShardSpec) -> None:
    services = ("", "attractor.v1.MemoryData", "attractor.v1.Memories")
    async with run_shard(spec) as shard, aio.insecure_channel(shard.info.address) as channel:
        assert {await health(channel, service) for service in services} == {"NOT_SERVING"}
        with pytest.raises(aio.AioRpcError) as caught:
            await raw.create(channel, "a")
        assert caught.value.code() is StatusCode.UNAVAILABLE  # it does not know the others yet
        await shard.learn(Topology(1, (shard.info,)))
        assert {await health(channel, service) for service in services} == {"SERVING"}
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())  # type: ignore[attr-defined]
        seen = [await watch.read()]
        assert await shard.drain(0.5)
        seen.append(await watch.read())
        assert [answer.status for answer in seen if answer is not aio.EOF][
            -1
        ] == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_lists_every_service(channel: aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
    call = stub.ServerReflectionInfo()  # type: ignore[operator]
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    ours = {f"attractor.v1.{name}" for name in ("Memories", "Models", "Cluster", "MemoryData")}
    assert ours | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
    call.cancel()


async def test_what_nobody_foresaw_is_internal_and_says_nothing_more(
    channel: aio.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await raw.create(channel, "a")
    monkeypatch.setattr("attractor_server.rpc.data.check_values", lambda *_, **__: 1 / 0)
    with pytest.raises(aio.AioRpcError) as caught:
        await memory_data_pb2_grpc.MemoryDataStub(channel).Store(pb.StoreRequest(memory="a", tensors=[tensor(ONE)]))
    assert caught.value.code() is StatusCode.INTERNAL
    assert "division" not in (caught.value.details() or "")
    assert "ZeroDivisionError" in caplog.text
